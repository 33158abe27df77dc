"""What every verb is told: where the home is, which programs there are, who acts."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from btf.fault import EXIT_USAGE, Fault
from probes.catalogue import Program, load_catalogue

if TYPE_CHECKING:
    from btf.archive.archive import Archive
    from fleet.record import Record
    from fleet.rollout.execute.artefacts import Artefacts


class HomeMissing(Fault):
    """No record where one is expected."""

    code = "COR-CLI-010"
    exit = EXIT_USAGE
    remedy = "Run `corollout init`, or name another folder with --home."


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the verb."""

    home: Path
    program_dirs: tuple[Path, ...] = ()
    quiet: bool = False
    debug: bool = False

    @property
    def database(self) -> Path:
        """The record."""
        return self.home / "fleet.db"

    @property
    def actor(self) -> str:
        """Who acts, for the audit: user@machine."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return f"{user}@{socket.gethostname()}"

    def require_home(self) -> None:
        """Raise HomeMissing when there is no record."""
        if not self.database.exists():
            raise HomeMissing(f"no record at {self.database}")

    def record(self) -> Record:
        """Open the record."""
        from fleet.record import open_record

        self.require_home()
        return open_record(self.database)

    def archive(self) -> Archive:
        """Open the BTF archive."""
        from btf.archive.archive import Archive

        return Archive(self.home / "btf")

    def artefacts(self) -> Artefacts:
        """Open the folder of files made for hosts."""
        from fleet.rollout.execute.artefacts import Artefacts

        return Artefacts(self.home / "artefacts")

    def catalogue(self) -> Mapping[str, Program]:
        """Return all programs: ours and the user's."""
        return load_catalogue(self.program_dirs)


pass_settings = click.make_pass_decorator(Settings)
