"""``corollout rollout policy``: what a rollout policy says, every key with its value, or the schema of such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from btf.fault import EXIT_USAGE, Fault
from fleet.cli.output import emit, emit_document, output_option
from fleet.cli.settings import Settings, pass_settings


class PolicyFileUnreadable(Fault):
    """A rollout policy's file cannot be read."""

    code = "COR-PLN-005"
    exit = EXIT_USAGE
    remedy = "Name a readable TOML file with --rollout-policy."


policy_option = click.option(
    "--rollout-policy", "policy_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML: waves, windows, gates, exclusions; see `corollout rollout policy`. Other options win over it.",
)  # fmt: skip


def read_policy_file(path: Path | None) -> dict[str, Any]:
    """Return what the file sets, or nothing without one; raises PolicyFileUnreadable, RolloutPolicyWrong."""
    from fleet.rollout.planning.policy_file import MAX_BYTES, read_policy

    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            return read_policy(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise PolicyFileUnreadable(f"{path}: {error.strerror}") from None


@click.command("policy")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of such files instead.")
@output_option
@pass_settings
def rollout_policy(settings: Settings, file: Path | None, output: str, *, schema: bool) -> None:  # noqa: ARG001
    """Check a rollout policy FILE and show every key with its value; without one, the defaults."""
    import msgspec

    from fleet.rollout.planning.policy_file import policy_schema, settings_of

    if schema:
        click.echo(json.dumps(policy_schema(), indent=2))
        return
    given = read_policy_file(file)
    made = settings_of(given)
    if output in ("json", "jsonl"):
        emit_document("rollout-policy", msgspec.to_builtins(made))
        return
    rows = [
        {"key": key, "value": _words(value), "from": "file" if key in given else "default"}
        for key, value in msgspec.to_builtins(made).items()
        if key != "waves"
    ]
    waves = [
        {"key": f"waves[{n}]", "value": _words({k: v for k, v in msgspec.to_builtins(step).items() if v}),
         "from": "file" if "waves" in given else "default"}
        for n, step in enumerate(made.steps)
    ]  # fmt: skip
    emit("rollout-policy", [*waves, *rows], {"key": "key", "value": "value", "from": "from"}, output)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return json.dumps(value, ensure_ascii=False)
