"""Hold what a manifest declares against what its object shows. The object is believed; the manifest is corrected.

A manifest that names a kind of requirement names all of that kind; kinds it leaves out are not compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from btf.fault import EXIT_USAGE, Fault
from fleet.compatibility.features import FEATURES
from fleet.compatibility.verdict import Requirement


class RequirementUndeclared(Fault):
    """An object needs what its manifest, which claims to list everything of that kind, does not name."""

    code = "COR-PRG-010"
    exit = EXIT_USAGE
    remedy = "Add it to [requires] in program.toml, or change the object so that it no longer needs it."


class RequirementKindUnknown(Fault):
    """A manifest declares a kind of requirement that does not exist."""

    code = "COR-PRG-011"
    exit = EXIT_USAGE
    remedy = "The kinds are the rows of fleet/compatibility/features.py."


def compare_declared(
    program: str, declared: Mapping[str, Sequence[str]], inferred: Iterable[Requirement]
) -> tuple[str, ...]:
    """Return one warning for each declared need that no object shows, in the manifest's order.

    Raises RequirementUndeclared for a need that is not declared, RequirementKindUnknown for a kind nobody knows.
    """
    shown: dict[str, set[str]] = {}
    for need in inferred:
        shown.setdefault(need.kind, set()).add(need.subject)
    warnings: list[str] = []
    for kind, subjects in declared.items():
        if kind not in FEATURES:
            near = difflib.get_close_matches(kind, FEATURES, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise RequirementKindUnknown(f"{program}: unknown kind of requirement {kind!r}{hint}")
        if missing := sorted(shown.get(kind, set()) - set(subjects)):
            raise RequirementUndeclared(
                f"{program}: needs {kind} {', '.join(missing)}, which program.toml does not declare"
            )
        warnings += [
            f"{program}: declares {kind} {subject}, but its object does not need it"
            for subject in subjects
            if subject not in shown.get(kind, set())
        ]
    return tuple(warnings)
