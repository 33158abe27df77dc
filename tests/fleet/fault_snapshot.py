"""Everything of a host that Corollout could have changed, as sections of lines: what a rollback must restore.

Asked by the shell on the host, by nobody of ours. What is kept on purpose is left out by name: artefacts, agents and
the calibration, which the next rollout uses again, and of a removed program its tombstone and its journals.
"""

from __future__ import annotations

from fault_matrix import Snapshot

_KEPT = (
    "lock", "calibration.json", "agent", "artefacts", "programs",
    "state.json", "journal.jsonl", "records.jsonl", "holder.log", "status.json", "spec.json", "checked.json", "work",
)  # fmt: skip
_NETDEV = 'for dev in $(ls /sys/class/net); do {} | sed "s/^/$dev: /"; done'
_SECTIONS = {
    # Programs and links by the descriptors of this host's processes: the kernel's own word for who holds what. The
    # first process is none of ours, and an init system has programs of its own, other ones after each boot.
    "programs": "grep -rhE '^(prog_id|link_id):' $(ls -d /proc/[0-9]*/fdinfo | grep -v '^/proc/1/') | sort -u",
    "pins": "find /sys/fs/bpf -mindepth 1",
    "filters": _NETDEV.format("tc filter show dev $dev ingress; tc filter show dev $dev egress"),
    "queueing": _NETDEV.format("tc qdisc show dev $dev | grep -E 'clsact|ingress'"),
    "rules": "(iptables-save; ip6tables-save) 2>/dev/null | grep -E '^-A|^:[^ ]+ -'; ipset list -n 2>/dev/null",
    "files": "find /var/lib/corollout -mindepth 1 -type f | grep -vE '/(agent|artefacts)/'"
    f" | grep -vE '/({'|'.join(_KEPT)})$'",
    "processes": "ps -eo args | grep -E 'agent/|bpfrun|corollout' | grep -vE 'grep|ps -eo'",
    "units": "ls /etc/systemd/system /run/systemd/system /etc/cron.d 2>/dev/null | grep corollout",
}
COMMAND = "; ".join(f"echo '== {name}'; {{ {command}; }} 2>/dev/null" for name, command in _SECTIONS.items())


def parse(said: str) -> Snapshot:
    """The sections of what the host said."""
    found: dict[str, list[str]] = {name: [] for name in _SECTIONS}
    section = ""
    for line in said.splitlines():
        if line.startswith("== "):
            section = line[3:]
        else:
            found[section].append(line)
    assert section == list(_SECTIONS)[-1], "the host did not say everything"
    return {name: frozenset(lines) for name, lines in found.items()}
