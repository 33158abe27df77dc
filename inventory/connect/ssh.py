"""Reach a host by SSH: strict host keys, agent or key file, jump hosts, and a bound on every wait and every byte.

Never asks a person, never accepts an unknown key, never writes known_hosts.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paramiko

from btf.fault import Fault
from inventory.connect import Completed
from inventory.connect.client_keys import client_key
from inventory.connect.errors import (
    AuthenticationFailed,
    CommandTimeout,
    ConnectionLost,
    ConnectTimeout,
    KeyUnusable,
    NotBegun,
    NotSsh,
    Refused,
    Unreachable,
)
from inventory.connect.host_keys import KeyCheck, known_keys
from inventory.connect.known_hosts import KnownKey
from inventory.connect.path import path_to
from inventory.connect.stops import hard_stop
from inventory.connect.wire import Wire
from inventory.host import Host

# paramiko reports every failed handshake with a traceback; ours travel as faults.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_CHUNK = 65536
_AFTER_EXIT_S = 2.0
_SILENT_S = 1.0  # how long what only the error stream says may wait
_ALIVE_S = 15  # how long an open connection may be silent before this side says something
_CHANNEL_S = 10.0  # an open connection that gives no channel for so long is gone
_GRACE_S = 2.0  # after a deadline, before the socket is torn down under a stuck library call
_BEHIND_S = 5.0  # how much longer the library may wait than we do: who gives up first says why, and that is us
_RSA = ("rsa-sha2-512", "rsa-sha2-256")  # how today's servers sign with the key that known_hosts calls ssh-rsa


class SshConnection:
    """An open, authenticated way to one host; see ``Connection``."""

    def __init__(self, host: Host, client: paramiko.SSHClient, wire: Wire, jump: SshConnection | None) -> None:
        self._name = host.name
        self._client = client
        self._wire = wire
        self._jump = jump

    def run(
        self, command: str, *, stdin: bytes = b"", timeout: float = 60.0, limit: int = 8 * 1024 * 1024
    ) -> Completed:
        """Run *command* in the login shell; a timeout closes the channel and leaves the connection usable."""
        deadline = time.monotonic() + timeout
        channel: paramiko.Channel | None = None
        with hard_stop(timeout + _GRACE_S, self._wire.tear_down):
            try:
                channel = self._transport().open_session(timeout=min(timeout, _CHANNEL_S))
                channel.exec_command(command.encode())
                return self._exchange(channel, stdin, deadline, limit, timeout)
            except (paramiko.SSHException, OSError, EOFError) as error:
                if time.monotonic() >= deadline:
                    raise self._late(timeout) from None
                kind = NotBegun if channel is None else ConnectionLost
                raise kind(f"{self._name}: {_words(error)}") from None
            finally:
                if channel is not None:
                    with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                        channel.close()

    def forward(self, address: str, port: int, timeout_s: float) -> paramiko.Channel:
        """Open a stream from this host to *address* and *port* (what a jump host is for)."""
        with hard_stop(timeout_s + _GRACE_S, self._wire.tear_down):
            try:
                return self._transport().open_channel(
                    "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s
                )
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise Unreachable(
                    f"jump host {self._name} cannot reach {address} port {port}: {_words(error)}"
                ) from None

    def close(self) -> None:
        """Close this connection and the jump connection below it; idempotent."""
        self._wire.tear_down()
        self._client.close()
        if self._jump is not None:
            self._jump.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise NotBegun(f"{self._name}: the connection is closed")
        return transport

    def _late(self, timeout: float) -> CommandTimeout:
        return CommandTimeout(f"{self._name}: the command did not end within {timeout:g} s")

    def _exchange(
        self, channel: paramiko.Channel, stdin: bytes, deadline: float, limit: int, timeout: float
    ) -> Completed:
        out, err, unsent = bytearray(), bytearray(), memoryview(stdin)
        if not unsent:
            channel.shutdown_write()
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._late(timeout)
            if unsent and channel.send_ready():
                unsent = _send(channel, unsent)
            while channel.recv_stderr_ready() and len(err) <= limit:
                err += channel.recv_stderr(_CHUNK)
            if max(len(out), len(err)) > limit:
                return Completed(-1, bytes(out[:limit]), bytes(err[:limit]), truncated=True)
            # recv wakes as soon as data comes; the short wait is for our own sending and for the error stream. The exit
            # status may overtake the last output, so after it the stream must have been silent for a while.
            ended = channel.exit_status_ready()
            channel.settimeout(min(remaining, _AFTER_EXIT_S if ended else 0.01 if unsent else _SILENT_S))
            try:
                data = channel.recv(_CHUNK)
            except TimeoutError:
                if ended and not channel.recv_stderr_ready():
                    break  # a background child holds the stream open
                continue
            if not data:
                break
            out += data
        if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
            raise self._late(timeout)
        while channel.recv_stderr_ready() and len(err) <= limit:
            err += channel.recv_stderr(_CHUNK)
        transport = self._client.get_transport()
        if channel.exit_status == -1 and (transport is None or not transport.is_active()):
            raise ConnectionLost(f"{self._name}: the connection ended before the command did")
        return Completed(channel.exit_status, bytes(out), bytes(err[:limit]), truncated=len(err) > limit)


def _send(channel: paramiko.Channel, unsent: memoryview) -> memoryview:
    try:
        unsent = unsent[channel.send(bytes(unsent[:32768])) :]
        if not unsent:
            channel.shutdown_write()
    except TimeoutError:
        pass
    except OSError:  # the command ended without wanting its input: not an error, as in a shell
        return unsent[:0]
    return unsent


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def open_ssh(host: Host, *, hosts: Mapping[str, Host], timeout_s: float) -> SshConnection:
    """Connect to *host*, through its jump hosts if it has any; *timeout_s* bounds each hop as a whole."""
    path = path_to(host, hosts)
    connection: SshConnection | None = None
    try:
        for hop in reversed(path):
            connection = _open_hop(hop, connection, timeout_s)
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    if connection is None:
        raise AssertionError("a path has at least its end")
    return connection


def _open_hop(host: Host, jump: SshConnection | None, timeout_s: float) -> SshConnection:
    deadline = time.monotonic() + timeout_s
    address = host.address or host.name
    keys, where = known_keys(host, address)
    file = _key_file(host)
    if file is not None and not file.is_file():
        raise KeyUnusable(f"{host.name}: there is no key file {host.key_file}")
    wire = Wire(jump.forward(address, host.port, timeout_s) if jump else _dial(host, address, timeout_s))
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(KeyCheck(host, keys, where))
    late = threading.Event()

    def stop() -> None:
        late.set()
        wire.tear_down()

    try:
        with hard_stop(max(0.0, deadline - time.monotonic()), stop):
            _log_in(host, client, wire, keys, timeout_s + _BEHIND_S)
    except BaseException as error:
        wire.tear_down()
        client.close()
        wire.close()
        raise _explain(host, address, error, wire, late=late.is_set(), timeout_s=timeout_s) from None
    wire.trust()
    return SshConnection(host, client, wire, jump)


def _key_file(host: Host) -> Path | None:
    return Path(host.key_file).expanduser() if host.key_file else None


def _dial(host: Host, address: str, timeout_s: float) -> socket.socket:
    try:
        return socket.create_connection((address, host.port), timeout=timeout_s)
    except TimeoutError:
        raise ConnectTimeout(
            f"{host.name}: no answer from {address} port {host.port} within {timeout_s:g} s",
            remedy=Unreachable.remedy,
        ) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be put into DNS
        raise Unreachable(f"{host.name}: {address} port {host.port}: {_words(error)}") from None


def _log_in(host: Host, client: paramiko.SSHClient, wire: Wire, keys: tuple[KnownKey, ...], timeout_s: float) -> None:
    def transport(sock: Any, **options: Any) -> paramiko.Transport:
        made = paramiko.Transport(sock, **options)
        made.handshake_timeout = timeout_s
        # A host that lost its power says nothing; spoken to once it is back, it resets what it does not know.
        made.set_keepalive(_ALIVE_S)
        # Ask for a key of a type that known_hosts has, as OpenSSH does, or a host with several keys looks changed.
        preferred = [t for key in keys for t in (_RSA if key.type == "ssh-rsa" else (key.type,))]
        known = made.get_security_options()
        supported = list(known.key_types)
        known.key_types = sorted(supported, key=lambda t: preferred.index(t) if t in preferred else len(preferred))
        return made

    file = _key_file(host)
    key = client_key(file) if file else None
    client.connect(
        host.address or host.name,
        port=host.port,
        username=host.user,
        pkey=key,
        key_filename=str(file) if file and key is None else None,
        look_for_keys=host.key_file is None,
        sock=wire,  # type: ignore[arg-type]  # it is a socket in all that the library uses
        timeout=timeout_s,
        banner_timeout=timeout_s,
        auth_timeout=timeout_s,
        channel_timeout=timeout_s,
        transport_factory=transport,
    )


def _explain(
    host: Host, address: str, error: BaseException, wire: Wire, *, late: bool, timeout_s: float
) -> BaseException:
    """Turn what the library raised into the fault that says what to do; faults and interrupts pass."""
    where = f"{host.name} ({address} port {host.port})"
    if isinstance(error, Fault) or not isinstance(error, Exception):
        return error
    file = _key_file(host)
    if file and client_key(file) is None and isinstance(error, paramiko.SSHException) and wire.greeted and not late:
        return KeyUnusable(f"{where}: {file}: {_words(error)}")
    if isinstance(error, paramiko.AuthenticationException) and not late:
        return AuthenticationFailed(f"{where}: {host.user} was not let in: {_words(error)}")
    if wire.heard == 0:
        if late:
            return ConnectTimeout(f"{where}: accepts and stays silent for {timeout_s:g} s")
        return Unreachable(f"{where}: the connection was closed without a word")
    if not wire.greeted:
        return NotSsh(f"{where}: what answers is not an SSH server")
    if late:
        return ConnectTimeout(f"{where}: did not finish the login within {timeout_s:g} s")
    if isinstance(error, paramiko.SSHException | OSError | EOFError):
        return Refused(
            f"{where}: {_words(error)}", remedy="Compare the host's sshd settings and log with this machine's."
        )
    return NotSsh(f"{where}: its SSH server cannot be understood: {_words(error)}")
