"""What the adapter packs and the fallback renders says what the reference says; no kernel asked."""

from __future__ import annotations

import ipaddress
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btf.objects.elf_object import read_object
from fleet.policy import judge
from probes.catalogue import load_program
from probes.manifest import parse_manifest
from probes.programs.net_policy import adapter, fallback
from probes.records import parse_record
from tools.bcc_twin import twin

FOLDER = Path(adapter.__file__).parent
CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "::/0", "fd00::/8", "fd00::5/128")
REMOTES = ("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.2.0.0", "192.0.2.1", "fd00::5", "fd00::6", "2001:db8::1")
EDGES = (1, 2, 7, 8, 80, 81, 1023, 1024, 32767, 32768, 65534, 65535)


@st.composite
def rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        side, action = draw(st.sampled_from(["ingress", "egress"])), draw(st.sampled_from(["allow", "deny"]))
        for _ in range(draw(st.integers(1, 3))):
            proto = draw(st.sampled_from(["any", "tcp", "udp", "sctp", "icmp"]))
            span = None
            if proto in adapter.PORTED and draw(st.booleans()):
                span = sorted([draw(st.sampled_from(EDGES)), draw(st.sampled_from(EDGES))])
            cidr = draw(st.sampled_from(CIDRS))
            rows.append({"id": number, "dir": side, "action": action, "cidr": cidr, "proto": proto, "port": span})
    return rows


def table(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    default = {"ingress": "deny", "egress": "allow"}
    protect = {"port": 22, "cidrs": ["192.0.2.0/24"]}
    plain = {"interface": "eth0", "audit": False, "established": True, "default": default, "protect": protect}
    return {**plain, "rules": rows, **changes}


def longest(rows: list[tuple[bytes, bytes]], key: bytes, bits: int) -> bytes | None:
    """A longest-prefix match as the kernel's trie makes it: the bits of the key from its first byte on."""
    wanted = int.from_bytes(key, "big")
    best, answer = -1, None
    for body, value in rows:
        length = struct.unpack("=I", body[:4])[0]
        shift = len(key) * 8 - length
        if best < length <= bits and int.from_bytes(body[4:], "big") >> shift == wanted >> shift:
            best, answer = length, value
    return answer


def packed_verdict(maps: dict[str, Any], config: dict[str, Any], side: int, remote: str, proto: str, port: Any) -> Any:
    address = ipaddress.ip_address(remote)
    key = struct.pack("=BBH16s", side, address.version, 0, address.packed)
    number = longest(maps["networks"], key, 32 + address.max_prefixlen)
    if number is not None:
        head = struct.pack("=HBB", struct.unpack("=I", number)[0], 0, adapter.PROTOCOLS.get(proto, 47))
        answer = longest(maps["ports"], head + struct.pack(">HH", port or 0, 0), 48)
        if answer is not None:
            rule, deny = struct.unpack("=II", answer)
            return "deny" if deny else "allow", rule
    return config["default"][adapter.SIDES[side]], None


@settings(max_examples=60, deadline=None)
@given(rules())
def test_packed_maps_answer_as_the_reference(rows: list[dict[str, Any]]) -> None:
    config = table(rows, protect={"port": 22, "cidrs": []})
    maps = adapter.pack(config)
    for side, direction in enumerate(adapter.SIDES):
        for remote in REMOTES:
            probes = [(proto, port) for proto in ("tcp", "udp") for port in (1, 2, 7, 9, 80, 1023, 1024, 40000, 65535)]
            for proto, port in [*probes, ("sctp", 80), ("icmp", None), ("gre", None)]:
                seen = packed_verdict(maps, config, side, remote, proto, port)
                assert seen == judge(config, direction, remote, proto, port)


@given(st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted))
def test_ranges_become_exactly_their_prefixes(span: list[int]) -> None:
    covered: list[int] = []
    for port, bits in adapter.prefixes(*span):
        assert port % (1 << (16 - bits)) == 0
        covered += range(port, port + (1 << (16 - bits)))
    assert covered == list(range(span[0], span[1] + 1))
    assert len(adapter.prefixes(*span)) <= 30


def test_equal_rules_share_a_class_and_a_rule() -> None:
    rows = [
        {"id": 1, "dir": "ingress", "action": "allow", "cidr": f"10.{n}.0.0/16", "proto": "tcp", "port": [80, 443]}
        for n in range(200)
    ]
    maps = adapter.pack(table(rows))
    assert len({value for _, value in maps["networks"]}) == 1
    assert len(maps["ports"]) == len(adapter.prefixes(80, 443))
    sets: dict[str, list[str]] = {}
    family = fallback.Family(4, "iptables", "icmp", "0.0.0.0/0")
    lines = fallback.chain_rules(table(rows), "ingress", family, "corollout:net-policy:1", sets)
    assert len([line for line in lines if "ingress 1 counts" in line]) == 1
    assert [len(members) for members in sets.values()] == [200]
    assert all(len(name) <= 31 for name in sets)  # what the kernel takes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"port": [0, 5]}, "has no ports"),
        ({"port": [5, 4]}, "has no ports"),
        ({"proto": "any", "port": [1, 2]}, "has no ports"),
        ({"proto": "gre"}, "cannot be one"),
        ({"id": 0}, "cannot be one"),
        ({"id": 1 << 31}, "cannot be one"),
        ({"cidr": "10.0.0.1/8"}, "host bits"),
        ({"dir": "sideways"}, "not in"),
    ],
)
def test_a_table_that_is_none_is_refused(change: dict[str, Any], says: str) -> None:
    row = {"id": 1, "dir": "ingress", "action": "allow", "cidr": "10.0.0.0/8", "proto": "tcp", "port": [80, 80]}
    with pytest.raises(ValueError, match=says):
        adapter.pack(table([{**row, **change}]))


def test_too_many_counters_are_refused_before_the_kernel_is() -> None:
    rows = [
        {"id": n, "dir": "egress", "action": "deny", "cidr": "10.0.0.0/8", "proto": "any", "port": None}
        for n in range(1, 5000)
    ]
    with pytest.raises(ValueError, match="4096"):
        adapter.pack(table(rows))


def test_multiports_hold_fifteen_numbers() -> None:
    lists = fallback._multiports([(n, n) for n in range(1, 17)] + [(100, 200)])
    assert lists == [",".join(map(str, range(1, 16))), "16,100:200"]


def test_samples_of_the_fallback_are_shaped_as_those_of_bpf() -> None:
    packet = bytes([0x45, *bytes(8), 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack(">HH", 999, 80)
    raw = fallback._sample(b"corollout:0:7:1\0", packet)
    assert raw is not None
    record = adapter.normalise(raw, {"offset_ns": 5, "host": "h"})
    assert record["ts_ns"] == record["mono_ns"] + 5
    assert {k: record[k] for k in ("dir", "saddr", "sport", "daddr", "dport", "proto", "rule_id", "action")} == {
        "dir": "ingress", "saddr": "10.0.0.1", "sport": 999, "daddr": "10.0.0.2", "dport": 80, "proto": "tcp",
        "rule_id": 7, "action": "audit",
    }  # fmt: skip
    for prefix, data in ((b"other:0:7:1", packet), (b"corollout:0:7:1", packet[:19]), (b"corollout:0:7:1", b"")):
        assert fallback._sample(prefix, data) is None


@pytest.mark.parametrize(("protocol", "missing"), [(6, []), (1, ["dport", "sport"])])
def test_a_sample_keeps_what_the_manifest_promises(protocol: int, missing: list[str]) -> None:
    packet = bytes([0x45, *bytes(8), protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack(">HH", 999, 80)
    record = adapter.normalise(fallback._sample(b"corollout:0:7:1\0", packet), {"offset_ns": 5, "host": "h"})
    assert record["fidelity"]["missing"] == missing
    line = json.dumps({**record, "v": 1, "program": "net-policy", "host": "h", "seq": 1}).encode()
    shape = parse_manifest((FOLDER / "program.toml").read_bytes()).record
    assert parse_record(line, "net-policy", shape)["proto"] == ("tcp" if protocol == 6 else "icmp")


def test_the_bcc_build_is_made_from_the_core_build() -> None:
    assert (FOLDER / "legacy.bcc.c").read_text() == twin(FOLDER)


def test_the_object_keeps_to_the_low_floor() -> None:
    read = read_object((FOLDER / "core.bpf.o").read_bytes())
    assert read.isa in ("v1", "v2")
    assert read.relocations == ()  # so it loads where there is no BTF
    assert {program.name for program in read.programs} == {"net_policy_in", "net_policy_out"}
    assert all(len(program.instructions) <= 4096 for program in read.programs)
    assert not any(made.name.startswith((".rodata", ".data", ".bss")) for made in read.maps)


def test_the_manifest_reads() -> None:
    program = load_program(FOLDER)
    assert (program.name, program.manifest.kind, program.manifest.fail_mode) == ("net-policy", "networking", "static")
    assert program.ladder == ("core", "core-btf", "bcc", "fallback")
