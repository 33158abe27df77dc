"""The ``corollout`` command: a table of verbs, loaded when called, and the one place where errors become lines.

Start-up imports neither SQLAlchemy nor Textual nor Ansible; each verb loads what it needs.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_FAILURE, EXIT_INTERRUPTED, Fault, printable
from fleet.cli.settings import Settings

# verb → (module, attribute, one line for --help): the help page loads no verb.
VERBS: dict[str, tuple[str, str, str]] = {
    "init": ("fleet.cli.hosts", "init", "Make a home: record, BTF archive, known_hosts."),
    "hosts": ("fleet.cli.hosts", "hosts", "Which hosts there are and what each can really do."),
    "kernels": ("fleet.cli.kernels", "kernels", "The kernel builds of the fleet and their BTF."),
    "programs": ("fleet.cli.programs", "programs", "The programs at hand and what each needs."),
    "check": ("fleet.cli.check", "check", "Would this object load on that kernel? No host is touched."),
    "explain": ("fleet.cli.decide", "explain", "Why a host gets the variant it gets, or an error code in full."),
    "report": ("fleet.cli.decide", "report", "One page per kernel: what runs, what does not, what unlocks it."),
    "plan": ("fleet.cli.plan", "plan", "Per host: variant, reason, what changes; frozen into waves."),
    "pin": ("fleet.cli.pins", "pin", "Hold a host to what it runs, or to one variant: plans respect it."),
    "unpin": ("fleet.cli.pins", "unpin", "Let plans decide for a host again."),
    "pins": ("fleet.cli.pins", "pins", "Hosts that persons hold to what they run, and why."),
    "rollout": ("fleet.cli.rollout", "rollout", "Carry out a plan: start, watch, pause, halt, roll back."),
    "drift": ("fleet.cli.drift", "drift", "Which hosts do not run what they should; keeps leases."),
    "reconcile": ("fleet.cli.reconcile", "reconcile", "Mend what drifted, by rollouts like any other."),
    "worker": ("fleet.cli.worker", "worker", "Carry rollouts for a zone, beside other workers on one database."),
    "status": ("fleet.cli.live", "status", "What hosts really run now, read back from their kernels."),
    "records": ("fleet.cli.live", "records", "What a program on a host has seen."),
    "policy": ("fleet.cli.policy", "policy", "Compile network policies and ask them questions."),
    "console": ("fleet.cli.live", "console", "The same, live."),
    "prove": (
        "fleet.cli.prove",
        "prove",
        "Try builds on real kernels under emulation; hold them against the prediction.",
    ),
    "lab": ("fleet.cli.lab", "lab", "Namespaced hosts with real differences on this machine."),
    "doctor": ("fleet.cli.doctor", "doctor", "Is this machine ready? One line and a remedy each."),
    "version": ("fleet.cli.doctor", "version", "Versions of Corollout and what it stands on."),
}


class Verbs(click.Group):
    """A group whose commands are imported on use, from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """Import and return one verb."""
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's
        """Write the list of verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, _, line) in VERBS.items()])


def default_home() -> Path:
    """Where the record lives unless told otherwise: the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME", "") or Path.home() / ".local" / "state") / "corollout"


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--home", type=click.Path(path_type=Path), envvar="COROLLOUT_HOME", help="Folder of record and archive.")
@click.option(
    "--programs",
    "program_dirs",
    type=click.Path(path_type=Path),
    multiple=True,
    envvar="COROLLOUT_PROGRAMS",
    help="A folder with programs of your own; may be repeated.",
)
@click.option(
    "--database", "server", envvar="COROLLOUT_DATABASE", metavar="URL", help="postgresql://… instead of a file."
)
@click.option("--quiet", "-q", is_flag=True, help="No narration on stderr.")
@click.option("--debug", is_flag=True, help="Show the whole traceback of a failure.")
@click.pass_context
def cli(
    ctx: click.Context, home: Path | None, program_dirs: tuple[Path, ...], server: str | None, *, quiet: bool,
    debug: bool,
) -> None:  # fmt: skip
    """Decide which build of which eBPF program runs on which host, prove it, roll it out, watch what it costs."""
    chosen = Settings(home=(home or default_home()).absolute(), program_dirs=program_dirs, quiet=quiet, debug=debug)
    ctx.obj = chosen.at(server or None)


def run(argv: list[str] | None = None) -> None:
    """Entry point: run a verb and leave with the exit code of the table in ``docs/contracts.md``."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code: Any = cli.main(arguments, prog_name="corollout", standalone_mode=False)
    except Fault as fault:
        code = _complain(f"{fault.code}: {fault.message}", fault.advice, fault.exit)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _complain("interrupted", "", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _complain(
            f"COR-CLI-002: {error.strerror}: {error.filename or ''}",
            "Free space or mend permissions; what was committed is kept.",
            EXIT_FAILURE,
        )
    except Exception as error:
        if "--debug" in arguments:
            raise
        code = _complain(
            f"COR-CLI-001: {type(error).__name__}: {printable(str(error))}",
            "This is a bug: run again with --debug and report it.",
            EXIT_FAILURE,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _complain(line: str, remedy: str, code: int) -> int:
    sys.stderr.write(f"{line}\n" + (f"  → {remedy}\n" if remedy else ""))
    return code
