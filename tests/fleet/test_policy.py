"""Policies compile to what Kubernetes means by them: cases as files, and a brute-force model as judge."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from btf.fault import EXIT_USAGE, Fault
from fleet.policy import (
    PolicyMalformed,
    PolicyTooLarge,
    PolicyUnresolved,
    compile_policy,
    explain,
    judge,
    parse_policies,
)
from inventory.host import Host

CASES = sorted((Path(__file__).parent / "policy_cases").glob("*.json"))


def host(body: dict[str, Any]) -> Host:
    return Host(**{**body, "addresses": tuple(body.get("addresses", ()))})


def policy(name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = json.loads(path.read_text())
    hosts = [host(body) for body in case["hosts"]]
    if "fault" in case:
        with pytest.raises(Fault) as caught:
            compile_policy(case["policies"], hosts, audit=False)
        assert caught.value.code == case["fault"]["code"]
        assert case["fault"]["says"] in caught.value.message
        assert caught.value.exit == EXIT_USAGE
        assert caught.value.advice
        return
    stream = yaml.safe_dump_all(case["policies"]).encode()
    tables = compile_policy(parse_policies(stream), hosts, audit=False)
    assert set(tables) == {h.name for h in hosts}
    for name, table in case.get("tables", {}).items():
        assert tables[name] == table
    assert case["verdicts"]
    for row in case["verdicts"]:
        seen = judge(tables[row["host"]], row["direction"], row["remote"], row["protocol"], row["port"])
        assert list(seen) == row["verdict"], row


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no policy"),
        (b"a: [", "not YAML: line 1"),
        (b"a: &x 1\nb: *x\n", "line 2: YAML aliases"),
        (b"kind: a\nkind: b\n", "line 2: key 'kind' is written twice"),
        (b"[" * 5000, "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: \x1b[31mred", "not YAML"),
        (b"!!python/object/apply:os.system [true]", "not YAML"),
        (b"x" * (1024 * 1024 + 1), "larger than"),
        (b"kind: List\n", "needs items"),
        (b"? [a, b]\n: c\n", "not YAML"),
        (b"a: 2001-99-99\n", "not YAML"),
        (b"just text", "document 1: must be a mapping"),
    ],
)
def test_bytes_that_are_no_policies(data: bytes, says: str) -> None:
    with pytest.raises(PolicyMalformed) as caught:
        parse_policies(data)
    assert says in caught.value.message
    assert caught.value.message.isprintable()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]&*!:-\n a?|>'\"%#0", max_size=80).map(str.encode))
def test_any_bytes_get_one_clear_fault(data: bytes) -> None:
    with pytest.raises(Fault):
        parse_policies(data)


def test_lists_are_opened() -> None:
    items = [policy("a", {"podSelector": {}}), policy("b", {"podSelector": {}})]
    assert parse_policies(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()) == items


ISOLATED = [policy("none", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})]
CUT = [
    *ISOLATED,
    policy(
        "cut",
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]},
        annotations={"corollout.io/action": "deny"},
    ),
]


@pytest.mark.parametrize("policies", [ISOLATED, CUT], ids=["isolated", "denied"])
def test_management_channel_is_never_cut(policies: list[dict[str, Any]]) -> None:
    jump = Host("jump", address="192.0.2.7")
    hosts = [Host("h", address="10.0.0.1", port=2222, jump="jump"), jump]
    table = compile_policy(policies, hosts, audit=False, controllers=["198.51.100.4", "2001:db8::/64"])["h"]
    assert table["protect"] == {"port": 2222, "cidrs": ["192.0.2.7/32", "198.51.100.4/32", "2001:db8::/64"]}
    for remote in ("192.0.2.7", "198.51.100.4", "2001:db8::77"):
        assert judge(table, "ingress", remote, "tcp", 2222) == ("allow", None)
        assert judge(table, "egress", remote, "tcp", 40000, source_port=2222) == ("allow", None)
        assert judge(table, "egress", remote, "tcp", 2222, source_port=40000)[0] == "deny"
        assert judge(table, "ingress", remote, "tcp", 22)[0] == "deny"
        assert judge(table, "ingress", remote, "udp", 2222)[0] == "deny"
    assert judge(table, "ingress", "198.51.100.5", "tcp", 2222)[0] == "deny"


def test_a_local_host_needs_no_protection_and_a_named_controller_is_refused() -> None:
    local = Host("l", connection="local")
    assert compile_policy(ISOLATED, [local], audit=True)["l"]["protect"]["cidrs"] == []
    with pytest.raises(PolicyUnresolved):
        compile_policy(ISOLATED, [Host("h", address="10.0.0.1")], audit=False, controllers=["control.example"])


def test_a_table_has_a_bound() -> None:
    ports = [{"port": n} for n in range(1, 2002)]
    blocks = [{"ipBlock": {"cidr": f"10.{n}.0.0/24"}} for n in range(10)]
    with pytest.raises(PolicyTooLarge):
        compile_policy(
            [policy("p", {"podSelector": {}, "ingress": [{"from": blocks, "ports": ports}]})],
            [Host("h", address="10.0.0.1")],
            audit=False,
        )


def test_explain_names_the_policy() -> None:
    hosts = [Host("h", address="10.0.0.1")]
    documents = [policy("web", {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})]
    table = compile_policy(documents, hosts, audit=False)["h"]
    assert "allow, because rule 1 (policy web, ingress[0])" in explain(table, "ingress", "1.1.1.1", "tcp", 80)
    assert "deny, because no rule speaks of it" in explain(table, "ingress", "1.1.1.1", "tcp", 81)
    assert "management channel" in explain(table, "ingress", "1.1.1.1", "tcp", 22)
    assert "it is counted and passes" in explain({**table, "audit": True}, "ingress", "1.1.1.1", "tcp", 81)


# A world small enough to enumerate: policies are judged again straight from their documents.
LABELS = {"a": {"app": "a"}, "b": {"app": "b"}, "c": {}}
ADDRESSES = {"a": ("10.0.0.1", "fd00::1"), "b": ("10.0.0.2",), "c": ("10.0.1.1", "fd00:1::1")}
HOSTS = [Host(name, addresses=ADDRESSES[name], labels=LABELS[name], port=22) for name in LABELS]
REMOTES = ("10.0.0.1", "10.0.0.2", "10.0.0.255", "10.0.1.1", "10.1.0.0", "192.0.2.1", "fd00::1", "fd00:1::1", "2001::1")
PORTS = (1, 9, 10, 11, 20, 21, 65535)

selectors = st.sampled_from(
    [
        {},
        {"matchLabels": {"app": "a"}},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
    ]
)
blocks = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/24", "10.0.0.0/16", "192.0.2.1/32"]},
        {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/31"]},
        {"cidr": "10.0.0.0/24"},
        {"cidr": "::/0", "except": ["fd00::/16"]},
        {"cidr": "fd00::/16", "except": ["fd00:1::/32"]},
    ]
)
peers = st.one_of(st.builds(lambda s: {"podSelector": s}, selectors), st.builds(lambda b: {"ipBlock": b}, blocks))
ports = st.one_of(
    st.sampled_from([{"protocol": "ICMP"}, {"protocol": "UDP"}, {}]),
    st.builds(
        lambda p, pair: {"protocol": p, "port": min(pair), "endPort": max(pair)},
        st.sampled_from(["TCP", "UDP", "SCTP"]),
        st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)),
    ),
)


def clauses(side: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.fixed_dictionaries({}, optional={side: st.lists(peers, max_size=2), "ports": st.lists(ports, max_size=2)}),
        max_size=2,
    )


specs = st.fixed_dictionaries(
    {"podSelector": selectors},
    optional={"ingress": clauses("from"), "egress": clauses("to"), "policyTypes": st.just(["Ingress", "Egress"])},
)
documents_of = st.lists(st.tuples(specs, st.booleans()), max_size=3).map(
    lambda rows: [
        policy(f"p{i}", spec, **({"annotations": {"corollout.io/action": "deny"}} if deny else {}))
        for i, (spec, deny) in enumerate(rows)
    ]
)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if "matchLabels" in selector:
        return all(labels.get(k) == v for k, v in selector["matchLabels"].items())
    for row in selector.get("matchExpressions", []):
        if row["operator"] == "NotIn" and labels.get(row["key"]) in row["values"]:
            return False
        if row["operator"] == "Exists" and row["key"] not in labels:
            return False
    return True


def speaks_of(peer: dict[str, Any], remote: str) -> bool:
    if "podSelector" in peer:
        return any(selects(peer["podSelector"], LABELS[n]) and remote in ADDRESSES[n] for n in LABELS)
    address, block = ipaddress.ip_address(remote), peer["ipBlock"]
    return address in ipaddress.ip_network(block["cidr"]) and not any(
        address in ipaddress.ip_network(hole) for hole in block.get("except", [])
    )


def model(documents: list[dict[str, Any]], name: str, direction: str, remote: str, protocol: str, port: Any) -> str:
    """The Kubernetes specification as one loop over documents."""
    if direction == "ingress" and protocol == "tcp" and port == 22:
        return "allow"
    isolated, said = False, set()
    for document in documents:
        spec, deny = document["spec"], "annotations" in document["metadata"]
        if not selects(spec["podSelector"], LABELS[name]):
            continue
        covers = direction == "ingress" or "policyTypes" in spec or bool(spec.get("egress"))
        isolated |= covers and not deny
        for clause in spec.get(direction, []):
            who = clause.get({"ingress": "from", "egress": "to"}[direction], [])
            what = clause.get("ports", [])
            if (not who or any(speaks_of(peer, remote) for peer in who)) and (
                not what
                or any(
                    row.get("protocol", "TCP").lower() == protocol
                    and ("port" not in row or (port is not None and row["port"] <= port <= row["endPort"]))
                    for row in what
                )
            ):
                said.add("deny" if deny else "allow")
    return "deny" if "deny" in said else "allow" if "allow" in said else "deny" if isolated else "allow"


@settings(max_examples=80, deadline=None)
@given(documents_of)
def test_compiled_tables_judge_as_the_documents_do(documents: list[dict[str, Any]]) -> None:
    tables = compile_policy(documents, HOSTS, audit=False)
    for name in LABELS:
        for direction in ("ingress", "egress"):
            for remote in REMOTES:
                probes = [(p, n) for p in ("tcp", "udp") for n in PORTS] + [("icmp", None), ("tcp", 22)]
                for protocol, port in probes:
                    seen, rule = judge(tables[name], direction, remote, protocol, port)
                    assert seen == model(documents, name, direction, remote, protocol, port)
                    if rule is not None:
                        assert {r["action"] for r in tables[name]["rules"] if r["id"] == rule} == {seen}


@given(documents_of)
@settings(max_examples=25, deadline=None)
def test_a_table_survives_json_and_compiling_is_deterministic(documents: list[dict[str, Any]]) -> None:
    tables = compile_policy(documents, HOSTS, audit=True)
    assert json.loads(json.dumps(tables)) == tables == compile_policy(documents, list(HOSTS), audit=True)
