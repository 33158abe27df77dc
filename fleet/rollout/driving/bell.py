"""Waiting for something that most often ends in this process: its end rings, and what ends elsewhere is looked for."""

from __future__ import annotations

import threading

SOON_S = 0.02  # the journal notes an end a moment after it rang


class Bell:
    """Rung when something ended here; any number may wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rung = 0

    def ring(self) -> None:
        """Wake everybody who waits."""
        with self._changed:
            self._rung += 1
            self._changed.notify_all()

    def rung(self) -> int:
        """Return how often it was rung."""
        return self._rung

    def wait(self, heard: int, seconds: float) -> int:
        """Wait until it was rung more often than *heard*, for *seconds* at most; returns how often it was."""
        with self._changed:
            self._changed.wait_for(lambda: self._rung != heard, seconds)
            return self._rung


class Looks:
    """The pauses between looks at something: short after a ring, longer and longer (to *most_s*) where none comes."""

    def __init__(self, bell: Bell, most_s: float, first_s: float = SOON_S) -> None:
        self._bell = bell
        self._most_s = most_s
        self._pause_s = first_s
        self._heard = bell.rung()

    def pause(self) -> None:
        """Wait for the next look."""
        heard = self._bell.wait(self._heard, self._pause_s)
        self._pause_s = SOON_S if heard != self._heard else min(2 * self._pause_s, self._most_s)
        self._heard = heard
