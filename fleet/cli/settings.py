"""What every verb is told: where the home is, which programs there are, who acts."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from btf.fault import EXIT_USAGE, Fault
from probes.catalogue import Program, load_catalogue

if TYPE_CHECKING:
    from btf.archive.archive import Archive
    from fleet.record import Record
    from fleet.rollout.execute.artefacts import Artefacts


class PasswordShown(Fault):
    """An argument carries a password."""

    code = "COR-CLI-016"
    exit = EXIT_USAGE
    remedy = "Leave it out of --database: put the address into COROLLOUT_DATABASE, or the password into ~/.pgpass."


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
    server: str | None = None  # postgresql://…, when the record is not a file of the home

    @property
    def database(self) -> Path | str:
        """Where the record is."""
        return self.server or self.home / "fleet.db"

    @property
    def place(self) -> str:
        """Where the record is, as it may be shown."""
        from fleet.record.place import masked

        return masked(self.database)

    def has_record(self) -> bool:
        """Whether there seems to be a record; of a server, only opening it tells."""
        return self.server is not None or (self.home / "fleet.db").exists()

    @property
    def actor(self) -> str:
        """Who acts, for the audit: user@machine."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return f"{user}@{socket.gethostname()}"

    def at(self, server: str | None) -> Settings:
        """Return these settings with the record at *server*, when one is named."""
        if server is None:
            return self
        from fleet.record.errors import PlaceMalformed
        from fleet.record.place import has_password, on_server

        if not on_server(server):
            raise PlaceMalformed("--database names no PostgreSQL database")
        source = click.get_current_context().get_parameter_source("server")
        if source is click.core.ParameterSource.COMMANDLINE and has_password(server):
            raise PasswordShown("every user of this machine reads the arguments of its processes")
        return replace(self, server=server)

    def require_home(self) -> None:
        """Raise HomeMissing when there is no record."""
        if not self.has_record():
            raise HomeMissing(f"no record at {self.place}")

    def record(self) -> Record:
        """Open the record."""
        from fleet.record import open_record

        self.require_home()
        return open_record(self.database)

    def archive(self) -> Archive:
        """Open the BTF archive."""
        from btf.archive.archive import Archive

        return Archive(self.home / "btf")

    def artefacts(self, record: Record | None = None) -> Artefacts:
        """Open the folder of files made for hosts; what other machines made comes from *record*, when it is shared."""
        from fleet.rollout.execute.artefacts import Artefacts

        if record is None or self.server is None:
            return Artefacts(self.home / "artefacts")
        return Artefacts(self.home / "artefacts", fetch=record.artefact)

    def catalogue(self) -> Mapping[str, Program]:
        """Return all programs: ours and the user's."""
        return load_catalogue(self.program_dirs)


pass_settings = click.make_pass_decorator(Settings)
