# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""Hosts and groups from Corollout's record, which is only read."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
short_description: Hosts of a Corollout record, grouped by kernel build, verdict, variant, wave and zone
version_added: 0.1.0
description:
  - Reads the record of a Corollout controller, read-only, and offers its hosts to plays.
  - Groups are V(kernel_RELEASE_BUILD), V(verdict_PROGRAM_VERDICT), V(variant_PROGRAM_VARIANT), V(wave_PROGRAM_NUMBER),
    V(reach_WORD) and V(zone_ZONE). Names keep letters, digits and underscores; everything else becomes an underscore.
  - Waves are those of the newest rollout of each program, or of the O(rollouts) that are named.
  - What hosts said of themselves is marked as unsafe and is never taken for a template.
  - Needs the Python package C(corollout) beside ansible-core on the controller.
author:
  - Corollout contributors (@corollout)
requirements:
  - corollout
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: Marks the file as one for this plugin.
    required: true
    choices: [corollout.fleet.fleet]
  record:
    description:
      - The home of a controller (a folder), its record (a file), or the URL of a record on PostgreSQL.
      - A relative path starts at the inventory file. Without it E(COROLLOUT_DATABASE), else the home that the
        C(corollout) command uses.
      - A URL with a password does not belong into a file; E(PGPASSWORD) and a C(.pgpass) file are read.
    type: str
  rollouts:
    description: Ids of the rollouts whose waves become groups.
    type: list
    elements: str
    default: []
  connection_vars:
    description: Whether hosts get address, port, user, key and known_hosts as the record has them.
    type: bool
    default: true
"""

EXAMPLES = r"""
# web.fleet.yml
plugin: corollout.fleet.fleet
record: /var/lib/corollout-home
keyed_groups:
  - key: corollout.labels.role | default("none")
    prefix: role
compose:
  ansible_become: corollout.labels.become is defined
"""

import re
import shlex
import typing as t
from pathlib import Path

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.corollout.fleet.plugins.plugin_utils.desk import home_of, server_of

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")


def group_name(*parts: t.Any) -> str:
    """Return a group's name: letters, digits and underscores, each part bounded, whatever a host calls itself."""
    return "_".join(_NOT_IN_NAMES.sub("_", str(part))[:80].strip("_") or "none" for part in parts)


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Reads hosts once per run, or from the cache."""

    NAME = "corollout.fleet.fleet"

    def verify_file(self, path: str) -> bool:
        """Take files that end with ``.fleet.yml`` or ``.fleet.yaml``."""
        return bool(super().verify_file(path)) and path.endswith((".fleet.yml", ".fleet.yaml"))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Add hosts, groups and variables to *inventory*."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        use = bool(self.get_option("cache"))
        rows = self._cache.get(key) if use and cache else None
        if rows is None:
            rows = self._read(self._place(path))
            if use:
                self._cache[key] = rows
        for row in rows:
            self._add(row)

    def _place(self, path: str) -> str:
        """Return where the record is."""
        wanted = self.get_option("record")
        if wanted and "://" in wanted:
            return str(wanted)
        if not wanted and (server := server_of(None)):
            return server
        place = Path(path).parent / Path(wanted).expanduser() if wanted else home_of(None)
        return str(place / "fleet.db" if place.is_dir() else place)

    def _read(self, place: str) -> list[dict[str, t.Any]]:
        """Return a plain row for each host of the record."""
        try:
            from btf.fault import Fault
            from fleet.record import open_record
        except ImportError as error:
            raise AnsibleParserError(f"the package corollout is needed beside ansible-core: {error}") from error
        try:
            with open_record(place, read_only=True) as record:
                waves = self._waves(record)
                known = record.definitions()
                views = record.hosts_named(record.host_names())
        except Fault as fault:
            raise AnsibleParserError(f"{fault}. {fault.advice}") from fault
        return [_row(view, known, waves.get(view.name, {})) for view in views]

    def _waves(self, record: t.Any) -> dict[str, dict[str, t.Any]]:
        """Return host -> program -> rollout, wave and state."""
        wanted = list(self.get_option("rollouts"))
        newest: dict[str, t.Any] = {}
        for view in [record.rollout(r) for r in wanted] if wanted else record.rollouts():
            newest.setdefault(view.program, view)
        found: dict[str, dict[str, t.Any]] = {}
        for program, view in newest.items():
            for step in record.steps(view.id):
                place = {"rollout": view.id, "wave": step.wave, "state": step.state}
                found.setdefault(step.host, {})[program] = place
        return found

    def _add(self, row: dict[str, t.Any]) -> None:
        name = row["name"]
        self.inventory.add_host(name)
        self.inventory.set_variable(name, "corollout", wrap_var(row["corollout"]))
        if self.get_option("connection_vars"):
            for key, value in row["connection"].items():
                self.inventory.set_variable(name, key, wrap_var(value))
        for group in row["groups"]:
            self.inventory.add_group(group)
            self.inventory.add_child(group, name)
        strict = self.get_option("strict")
        seen = self.inventory.get_host(name).get_vars()
        self._set_composite_vars(self.get_option("compose"), seen, name, strict=strict)
        seen = self.inventory.get_host(name).get_vars()
        self._add_host_to_composed_groups(self.get_option("groups"), seen, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), seen, name, strict=strict)


def _row(view: t.Any, known: dict[str, t.Any], waves: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return one host as plain values."""
    groups = [group_name("zone", view.zone), group_name("reach", view.reach)]
    if view.kernel_id:
        groups.append(group_name("kernel", view.release, view.kernel_id[:12]))
    groups += [group_name("verdict", program, verdict) for program, verdict in sorted(view.verdicts.items())]
    groups += [group_name("variant", program, variant) for program, variant in sorted(view.variants.items()) if variant]
    groups += [group_name("wave", program, place["wave"]) for program, place in sorted(waves.items())]
    return {
        "name": view.name,
        "groups": groups,
        "connection": _connection(view.host, known),
        "corollout": {
            "kernel": {"id": view.kernel_id, "release": view.release, "arch": view.arch},
            "os": view.os_name,
            "reach": view.reach,
            "zone": view.zone,
            "labels": dict(view.host.labels),
            "addresses": list(view.host.addresses),
            "verdicts": dict(view.verdicts),
            "variants": dict(view.variants),
            "waves": waves,
        },
    }


def _connection(host: t.Any, known: dict[str, t.Any]) -> dict[str, t.Any]:
    """Return how Ansible reaches a host; jump hosts by address, with keys and known_hosts of the user's ssh config."""
    if host.connection == "local":
        return {"ansible_connection": "local", "corollout_state_dir": host.state_dir}
    found: dict[str, t.Any] = {
        "ansible_host": host.address or host.name,
        "ansible_port": host.port,
        "ansible_user": host.user,
        "corollout_state_dir": host.state_dir,
    }
    if host.key_file:
        found["ansible_ssh_private_key_file"] = host.key_file
    options = []
    if host.known_hosts:
        quoted = f'UserKnownHostsFile="{host.known_hosts}"'
        options.append(f"-o {shlex.quote(quoted)}")
    jumps: list[str] = []
    hop = known.get(host.jump) if host.jump else None
    while hop is not None and len(jumps) < 4:
        jumps.insert(0, f"{hop.user}@{hop.address or hop.name}:{hop.port}")
        hop = known.get(hop.jump) if hop.jump else None
    if jumps:
        options.append(f"-o {shlex.quote('ProxyJump=' + ','.join(jumps))}")
    if options:
        found["ansible_ssh_common_args"] = " ".join(options)
    return found
