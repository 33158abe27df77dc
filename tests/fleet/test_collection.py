"""The Ansible collection: its documents are true of its code, its inventory believes no host. No host is touched."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.compatibility.unlock import BOOTSTRAPS, MISSING, bootstrap
from fleet.record import open_record
from fleet.rollout.execute.ansible_run import playbooks
from inventory.collect import ScanOutcome
from inventory.facts import parse_facts
from inventory.host import Host

COLLECTION = playbooks() / "collections" / "ansible_collections" / "corollout" / "fleet"
MODULES = sorted(p.stem for p in (COLLECTION / "plugins" / "modules").glob("*.py"))
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "ANSIBLE_COLLECTIONS_PATH": str(playbooks() / "collections"),
    "ANSIBLE_LOCALHOST_WARNING": "False",
    "ANSIBLE_NOCOLOR": "1",
}


def run(tool: str, *arguments: str, code: int = 0, **more: str) -> str:
    done = subprocess.run(
        [str(BIN / tool), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, **more},
        timeout=120,
    )
    assert done.returncode == code, f"{tool} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def plugin_path() -> Any:
    sys.path.insert(0, str(playbooks() / "collections"))
    yield
    sys.path.remove(str(playbooks() / "collections"))


def documented(module: str) -> dict[str, Any]:
    """The options of a module's documentation, with those of the fragments it takes in."""
    package = "ansible_collections.corollout.fleet.plugins"
    text = importlib.import_module(f"{package}.modules.{module}")
    fragments = importlib.import_module(f"{package}.doc_fragments.host").ModuleDocFragment
    document = yaml.safe_load(text.DOCUMENTATION)
    assert document["module"] == module
    assert yaml.safe_load(text.EXAMPLES)
    assert yaml.safe_load(text.RETURN)
    options = dict(document.get("options", {}))
    for name in document.get("extends_documentation_fragment", []):
        part = name.partition("corollout.fleet.host")[2].lstrip(".").upper() or "DOCUMENTATION"
        options |= yaml.safe_load(getattr(fragments, part)).get("options", {})
    return options


@pytest.mark.parametrize("module", MODULES)
def test_documented_options_are_those_that_are_taken(plugin_path: None, module: str) -> None:
    taken = importlib.import_module(f"ansible_collections.corollout.fleet.plugins.action.{module}").SPEC
    told = documented(module)
    assert sorted(told) == sorted(taken)
    for name, spec in taken.items():
        for key in ("type", "elements", "choices", "default", "required"):
            assert told[name].get(key) == spec.get(key), f"{module}: {name}.{key}"


def test_role_takes_what_its_tasks_hand_on() -> None:
    role = COLLECTION / "roles" / "program"
    taken = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    tasks, defaults = (
        (role / "tasks" / "main.yml").read_text(),
        yaml.safe_load((role / "defaults/main.yml").read_text()),
    )
    assert set(re.findall(r"program_\w+", tasks)) - {"program_order", "program_result", "program_held"} == set(taken)
    assert defaults == {name: option["default"] for name, option in taken.items() if "default" in option}


def test_playbooks_are_playbooks() -> None:
    names = [f"corollout.fleet.{p.stem}" for p in sorted((COLLECTION / "playbooks").glob("*.yml"))]
    assert len(names) == 4
    said = run("ansible-playbook", "-i", "localhost,", "--syntax-check", *names)
    assert [line for line in said.splitlines() if line.startswith("playbook:")]


HOSTILE = "{{ lookup('pipe','touch PWNED') }} {% raw %} ../x\x1b[31m"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A record with a host that calls its kernel bad names, and one that was never asked."""
    facts = parse_facts(
        json.dumps(
            {
                "schema": "corollout.facts/1",
                "collector": {"form": "python"},
                "collected_at": 1.0,
                "took_ms": 1,
                "facts": {
                    "kernel.release": {"answer": "yes", "value": HOSTILE},
                    "kernel.arch": {"answer": "yes", "value": "x86_64"},
                    "kernel.build_id": {"answer": "yes", "value": "ab" * 20},
                    "os.pretty_name": {"answer": "yes", "value": HOSTILE},
                },
            }
        ).encode()
    )
    home = tmp_path / "home"
    hosts = [Host("evil", connection="local", zone="a-b", labels={"role": "web"}), Host("silent", address="198.18.0.9")]
    with open_record(home / "fleet.db", create=True) as record:
        record.import_hosts(hosts, "test")
        record.record_scan(ScanOutcome(hosts[0], facts, None, 0.1))
    (tmp_path / "web.fleet.yml").write_text(
        "plugin: corollout.fleet.fleet\nrecord: home\n"
        "keyed_groups: [{key: corollout.labels.role | default('none'), prefix: role}]\n"
        "compose: {kernel_of_mine: corollout.kernel.arch}\n"
    )
    return home


def test_inventory_groups_and_believes_no_host(home: Path) -> None:
    place = home.parent / "web.fleet.yml"
    listed = json.loads(run("ansible-inventory", "-i", str(place), "--list"))
    groups = {name for name in listed if name not in ("_meta", "all")}
    assert groups >= {"zone_a_b", "zone_default", "role_web", "role_none", "reach_reachable", "reach_unscanned"}
    assert [g for g in groups if g.startswith("kernel_") and g.endswith("_abababababab")]
    assert all(re.fullmatch(r"\w+", g, re.ASCII) for g in groups)
    assert listed["zone_a_b"]["hosts"] == ["evil"]
    told = listed["_meta"]["hostvars"]["evil"]
    assert "lookup" in told["corollout"]["kernel"]["release"]["__ansible_unsafe"]
    said = run("ansible", "-i", str(place), "evil", "-m", "debug", "-a", "msg='{{ corollout.kernel.release }}'")
    assert "lookup('pipe'" in said
    assert not list(Path.cwd().glob("PWNED"))
    assert "\x1b" not in said


def test_inventory_takes_its_own_files_only(home: Path) -> None:
    other = home.parent / "other.yml"
    other.write_text((home.parent / "web.fleet.yml").read_text())
    plain = run("ansible-inventory", "-i", str(other), "--list", ANSIBLE_INVENTORY_ENABLED="corollout.fleet.fleet")
    assert json.loads(plain)["_meta"]["hostvars"] == {}


def test_inventory_caches_when_it_is_told_to(home: Path) -> None:
    place = home.parent / "web.fleet.yml"
    cached = f"cache: true\ncache_plugin: jsonfile\ncache_connection: {home.parent}/cache\n"
    place.write_text(place.read_text() + cached)
    first = run("ansible-inventory", "-i", str(place), "--list")
    with open_record(home / "fleet.db") as record:
        record.import_hosts([Host("later")], "test")
    assert run("ansible-inventory", "-i", str(place), "--list") == first
    assert "later" in run("ansible-inventory", "-i", str(place), "--list", "--flush-cache")


def test_inventory_without_a_record_says_so(tmp_path: Path) -> None:
    place = tmp_path / "web.fleet.yml"
    place.write_text("plugin: corollout.fleet.fleet\nrecord: nowhere\n")
    done = subprocess.run(
        [str(BIN / "ansible-inventory"), "-i", str(place), "--list"], capture_output=True, text=True, check=False,
        env={**ENVIRONMENT, "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "COR-REC-" in done.stderr


def test_a_program_nobody_knows_fails_with_a_code_and_a_remedy(home: Path) -> None:
    arguments = f"program=tcp-flwo home={home}"
    said = run(
        "ansible", "-i", "localhost,", "-c", "local", "all", "-m", "corollout.fleet.bpf_check", "-a", arguments, code=2
    )
    assert "COR-PRG-002" in said


def test_a_gate_waits_for_rollouts_that_there_are(home: Path) -> None:
    arguments = f"rollout=nobody-1 home={home} timeout=0"
    said = run("ansible", "-i", "localhost,", "all", "-m", "corollout.fleet.fleet_gate", "-a", arguments, code=2)
    assert "COR-REC-" in said


def test_unlocks_that_are_packages_name_what_bootstrap_installs() -> None:
    playbook = (COLLECTION / "playbooks" / "bootstrap.yml").read_text()
    for code, word in BOOTSTRAPS.items():
        assert code in {m.unlock.code for m in MISSING.values()}
        assert re.search(rf"^# .*\b{word}:", playbook, re.MULTILINE), word
    wanted = [MISSING[f].unlock for f in ("python.path", "tool.ipset", "mount.tracefs", "tool.tc")]
    assert bootstrap(wanted) == "ansible-playbook corollout.fleet.bootstrap -e corollout_wants=python,fallback"
    assert bootstrap([MISSING["mount.tracefs"].unlock]) is None
