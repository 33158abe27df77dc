"""Write the report: an index, one page per kernel build, and ``report.json``. Static, offline, without scripts.

Everything a host said reaches a page through Jinja's autoescape; the pages' own policy forbids scripts and loading.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from fleet.compatibility.unlock import Change
from fleet.report.model import EVIDENCE, GLYPHS, MEANINGS, VERDICTS, ProgramSection, Report, Survey, causes, make_report
from fleet.report.trials import Trial, tried

SCHEMA = "corollout.report/1"
NAMES_SHOWN = 12  # hosts named in one place of a page; report.json has them all
TRIALS_SHOWN = 60  # rows of one table; the same


def write_report(survey: Survey, out: Path) -> list[Path]:
    """Write the report about *survey* into *out* and return the paths, the index first.

    Each file appears whole or not at all; kernel pages of an earlier report that no longer hold are removed.
    """
    report = make_report(survey)
    folder = out / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    pages = _environment()
    written = [_write(out / "index.html", pages.get_template("index.html.j2").render(report=report, root=""))]
    for kernel in report.kernels:
        html = pages.get_template("kernel.html.j2").render(report=report, page=kernel, root="../")
        written.append(_write(folder / kernel.page, html))
    kept = {p.name for p in written}
    if (out / "report.json").exists():
        for old in folder.glob("*.html"):
            if old.name not in kept:
                old.unlink()
    written.append(_write(out / "report.json", json.dumps(document(report), indent=1) + "\n"))
    return written


def _write(path: Path, text: str) -> Path:
    half = path.with_name(path.name + ".part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)  # noqa: PTH105  Path.replace would do the same under another name
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fleet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": _when, "names": _names, "count": _count, "causes": causes, "tried": tried}
    environment.globals |= {
        "GLYPHS": GLYPHS, "MEANINGS": MEANINGS, "VERDICTS": VERDICTS, "EVIDENCE": EVIDENCE,
        "TRIALS_SHOWN": TRIALS_SHOWN,
    }  # fmt: skip
    return environment


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%-d %B %Y, %H:%M UTC")


def _names(hosts: tuple[str, ...]) -> str:
    more = len(hosts) - NAMES_SHOWN
    return ", ".join(hosts[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def document(report: Report) -> dict[str, Any]:
    """Return ``report.json``: the same report for machines, with every host's name."""
    return {
        "schema": SCHEMA,
        "generated_at": report.generated_at,
        "hosts": {"total": report.hosts, "by_reach": dict(report.reach)},
        "programs": [_section(s) for s in report.sections],
        "unlocks": [_change(c) for c in report.changes],
        "agreements": {a.value: n for a, n in report.agreements.items()},
        "contradictions": [_trial(t) for t in report.contradictions],
        "silent": [
            {"host": h.name, "reach": h.reach, "code": h.reach_code, "detail": h.reach_detail} for h in report.silent
        ],
        "kernels": [
            {
                "id": k.kernel.id,
                "release": k.kernel.release,
                "arch": k.kernel.arch,
                "os": k.kernel.os_name,
                "btf_sha256": k.kernel.btf_sha256,
                "page": f"kernels/{k.page}",
                "hosts": list(k.hosts),
                "programs": [_section(s) for s in k.sections],
                "trials": [_trial(t) for t in k.others],
            }
            for k in report.kernels
        ],
    }


def _section(section: ProgramSection) -> dict[str, Any]:
    found: dict[str, Any] = {
        "program": section.program.name,
        "verdicts": {v.value: n for v, n in section.counts.items()},
        "variants": dict(section.variants),
    }
    if section.groups:
        found["groups"] = [
            {
                "hosts": list(g.hosts),
                "variant": g.variant,
                "verdict": g.verdict.value,
                "headline": g.headline,
                "lost": list(g.lost),
                "assessments": msgspec.to_builtins(g.assessments),
            }
            for g in section.groups
        ]
        found["differences"] = msgspec.to_builtins(section.differences)
        found["unlocks"] = [_change(c) for c in section.changes]
        found["levels"] = msgspec.to_builtins(section.levels)
    if section.trials:
        found["trials"] = [_trial(t) for t in section.trials]
    return found


def _trial(trial: Trial) -> Mapping[str, Any]:
    return {**msgspec.to_builtins(trial), "contradicts": trial.contradicts, "complaint": trial.complaint}


def _change(change: Change) -> Mapping[str, Any]:
    return {
        "action": change.action,
        "words": change.words,
        "codes": [u.code for u in change.unlocks],
        "hosts": list(change.hosts),
        "kernels": list(change.kernels),
        "gains": msgspec.to_builtins(change.gains),
    }
