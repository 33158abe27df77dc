"""Kubernetes NetworkPolicy documents: YAML bytes in, checked values out. It never asks which hosts there are.

Strict: what would have no effect, or another effect than in Kubernetes, is refused with the path of the field.
A host stands for a pod. Two things are ours: the protocol ICMP, and the annotation ``corollout.io/action: deny``, which
turns the rules of a policy into denials (these win over every allowance, and isolate nobody).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fleet.policy.fault import PolicyMalformed, PolicyUnsupported
from fleet.policy.stream import read_stream

API_VERSION = "networking.k8s.io/v1"
ACTION_ANNOTATION = "corollout.io/action"
MAX_POLICIES = 1000
DIRECTIONS = {"Ingress": "ingress", "Egress": "egress"}
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp", "ICMP": "icmp"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")

_KIND_NAMES = {dict: "a mapping", list: "a list", str: "text", int: "a number", bool: "true or false"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Expression:
    """One row of matchExpressions."""

    key: str
    operator: str
    values: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether *labels* satisfy it; as in Kubernetes, NotIn holds for an absent key."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector; without expressions it selects everything."""

    expressions: tuple[Expression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether *labels* satisfy every expression."""
        return all(expression.matches(labels) for expression in self.expressions)


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses: a network less its exceptions."""

    network: Network
    exceptions: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """A protocol and an inclusive range of destination ports; no range means all."""

    protocol: str
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Clause:
    """One ingress or egress rule. Without peers it speaks of everybody, without ports of every protocol."""

    direction: str
    index: int
    peers: tuple[Selector | Block, ...]
    ports: tuple[Ports, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked NetworkPolicy. ``isolates`` are the directions in which a selected host denies what nothing allows."""

    name: str
    selector: Selector
    isolates: frozenset[str]
    clauses: tuple[Clause, ...]
    action: Literal["allow", "deny"]


def parse_policies(data: bytes) -> list[dict[str, Any]]:
    """Return the policy documents of a YAML stream, each checked and lists opened. Errors: COR-POL-001, 002."""
    documents = read_stream(data)
    if not documents:
        raise PolicyMalformed("the file holds no policy")
    read_policies(documents)
    return documents


def read_policies(documents: Sequence[Mapping[str, Any]]) -> tuple[Policy, ...]:
    """Check every document; names must differ."""
    if len(documents) > MAX_POLICIES:
        raise PolicyMalformed(f"more than {MAX_POLICIES} policies")
    policies: dict[str, Policy] = {}
    for number, document in enumerate(documents, start=1):
        policy = _policy(document, f"document {number}")
        if policy.name in policies:
            raise PolicyMalformed(f"document {number}: metadata.name: a policy {policy.name!r} is already there")
        policies[policy.name] = policy
    return tuple(policies.values())


def _policy(document: Any, at: str) -> Policy:
    _fields(document, at, {"apiVersion", "kind", "metadata", "spec"}, {"status"})
    if document["apiVersion"] != API_VERSION or document["kind"] != "NetworkPolicy":
        raise PolicyMalformed(f"{at}: not a NetworkPolicy of {API_VERSION}")
    metadata = _typed(document["metadata"], dict, f"{at}: metadata")
    name = _typed(metadata.get("name"), str, f"{at}: metadata.name")
    if not _NAME.match(name):
        raise PolicyMalformed(f"{at}: metadata.name: {name!r} is not a name")
    at = f"policy {name}: "
    if metadata.get("namespace", "default") != "default":
        raise PolicyUnsupported(
            f"{at}metadata.namespace: hosts have no namespaces", remedy="Remove it and select hosts by labels."
        )
    annotations = _typed(metadata.get("annotations") or {}, dict, f"{at}metadata.annotations")
    action = annotations.get(ACTION_ANNOTATION, "allow")
    if action not in ("allow", "deny"):
        raise PolicyMalformed(f"{at}metadata.annotations: {ACTION_ANNOTATION} must be allow or deny, not {action!r}")
    spec = document["spec"]
    _fields(spec, f"{at}spec", {"podSelector"}, {"ingress", "egress", "policyTypes"})
    types = _policy_types(spec, f"{at}spec")
    clauses = [
        _clause(body, direction, index, f"{at}spec.{direction}[{index}]")
        for direction in DIRECTIONS.values()
        for index, body in enumerate(_list(spec.get(direction), f"{at}spec.{direction}"))
    ]
    return Policy(
        name,
        _selector(spec["podSelector"], f"{at}spec.podSelector"),
        frozenset() if action == "deny" else types,
        tuple(clauses),
        "deny" if action == "deny" else "allow",
    )


def _policy_types(spec: Mapping[str, Any], at: str) -> frozenset[str]:
    """Return the directions of policyTypes; unwritten, ingress always and egress when there are egress rules."""
    if spec.get("policyTypes") is None:
        return frozenset({"ingress", "egress"} if spec.get("egress") else {"ingress"})
    types = set()
    for index, value in enumerate(_list(spec["policyTypes"], f"{at}.policyTypes")):
        if not isinstance(value, str) or value not in DIRECTIONS:
            raise PolicyMalformed(f"{at}.policyTypes[{index}]: {value!r} is neither Ingress nor Egress")
        types.add(DIRECTIONS[value])
    for type_, direction in DIRECTIONS.items():
        if spec.get(direction) and direction not in types:
            raise PolicyMalformed(
                f"{at}.{direction}: has no effect, because policyTypes does not name {type_}",
                remedy=f"Add {type_} to policyTypes or remove the rules.",
            )
    return frozenset(types)


def _clause(body: Any, direction: str, index: int, at: str) -> Clause:
    side = {"ingress": "from", "egress": "to"}[direction]
    _fields(body, at, set(), {side, "ports"})
    peers = tuple(_peer(v, f"{at}.{side}[{i}]") for i, v in enumerate(_list(body.get(side), f"{at}.{side}")))
    ports = tuple(_ports(v, f"{at}.ports[{i}]") for i, v in enumerate(_list(body.get("ports"), f"{at}.ports")))
    return Clause(direction, index, peers, ports)


def _peer(body: Any, at: str) -> Selector | Block:
    _fields(body, at, set(), {"podSelector", "namespaceSelector", "ipBlock"})
    if not body:
        raise PolicyMalformed(f"{at}: a peer must be a podSelector or an ipBlock")
    if "ipBlock" in body:
        if len(body) > 1:
            raise PolicyMalformed(f"{at}: ipBlock stands alone in its peer")
        return _block(body["ipBlock"], f"{at}.ipBlock")
    # All hosts are in one namespace, so "every namespace" changes nothing and anything narrower cannot be kept.
    if _selector(body.get("namespaceSelector", {}), f"{at}.namespaceSelector").expressions:
        raise PolicyUnsupported(
            f"{at}.namespaceSelector: hosts have no namespaces", remedy="Label the hosts and use podSelector."
        )
    return _selector(body.get("podSelector", {}), f"{at}.podSelector")


def _block(body: Any, at: str) -> Block:
    _fields(body, at, {"cidr"}, {"except"})
    network = _network(body["cidr"], f"{at}.cidr")
    exceptions = []
    for index, text in enumerate(_list(body.get("except"), f"{at}.except")):
        hole = _network(text, f"{at}.except[{index}]")
        if hole.version != network.version or hole == network or not hole.subnet_of(network):  # type: ignore[arg-type]  # versions are equal
            raise PolicyMalformed(f"{at}.except[{index}]: {hole} is not a part of {network}")
        exceptions.append(hole)
    return Block(network, tuple(exceptions))


def _network(text: Any, at: str) -> Network:
    _typed(text, str, at)
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text)
    except ValueError:
        raise PolicyMalformed(
            f"{at}: {text!r} is not a network", remedy="Write ADDRESS/PREFIX with no bits set behind the prefix."
        ) from None


def _ports(body: Any, at: str) -> Ports:
    _fields(body, at, set(), {"protocol", "port", "endPort"})
    protocol = body.get("protocol", "TCP")
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise PolicyMalformed(f"{at}.protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    port, end = body.get("port"), body.get("endPort")
    if protocol == "ICMP" and not (port is None and end is None):
        raise PolicyMalformed(f"{at}.port: ICMP has no ports")
    if isinstance(port, str):
        raise PolicyUnsupported(f"{at}.port: a named port needs a pod that names it", remedy="Write the number.")
    if port is None:
        if end is not None:
            raise PolicyMalformed(f"{at}.endPort: needs a port to start from")
        return Ports(PROTOCOLS[protocol])
    first = _port_number(port, f"{at}.port")
    last = first if end is None else _port_number(end, f"{at}.endPort")
    if last < first:
        raise PolicyMalformed(f"{at}.endPort: {last} is below port {first}")
    return Ports(PROTOCOLS[protocol], (first, last))


def _port_number(value: Any, at: str) -> int:
    number = _typed(value, int, at)
    if not 0 < number < 65536:
        raise PolicyMalformed(f"{at}: {number} is not a port")
    return int(number)


def _selector(body: Any, at: str) -> Selector:
    _fields(body, at, set(), {"matchLabels", "matchExpressions"})
    labels = _typed(body.get("matchLabels") or {}, dict, f"{at}.matchLabels")
    equal = [
        Expression(_typed(key, str, f"{at}.matchLabels"), "In", frozenset({_typed(v, str, f"{at}.matchLabels.{key}")}))
        for key, v in labels.items()
    ]
    rows = _list(body.get("matchExpressions"), f"{at}.matchExpressions")
    return Selector((*equal, *(_expression(row, f"{at}.matchExpressions[{i}]") for i, row in enumerate(rows))))


def _expression(body: Any, at: str) -> Expression:
    _fields(body, at, {"key", "operator"}, {"values"})
    operator = body["operator"]
    if operator not in _OPERATORS:
        raise PolicyMalformed(f"{at}.operator: {operator!r} is not one of {', '.join(_OPERATORS)}")
    values = [_typed(v, str, f"{at}.values[{i}]") for i, v in enumerate(_list(body.get("values"), f"{at}.values"))]
    if bool(values) != (operator in ("In", "NotIn")):
        raise PolicyMalformed(f"{at}.values: {operator} takes {'no' if values else 'at least one'} value")
    return Expression(_typed(body["key"], str, f"{at}.key"), operator, frozenset(values))


def _list(value: Any, at: str) -> list[Any]:
    return [] if value is None else _typed(value, list, at)


def _typed(value: Any, kind: type, at: str) -> Any:
    """Return *value* when it is a *kind*; YAML's yes, 1 and 1.0 are no text, and true is no number."""
    if isinstance(value, Mapping if kind is dict else kind) and not (kind is int and isinstance(value, bool)):
        return value
    quote = "Put the value in quotes." if kind is str and isinstance(value, bool | int | float) else None
    raise PolicyMalformed(f"{at}: must be {_KIND_NAMES[kind]}, not {value!r}", remedy=quote)


def _fields(body: Any, at: str, required: set[str], optional: set[str]) -> None:
    """Check that *body* is a mapping with every required field and none that is unknown."""
    _typed(body, dict, at)
    for key in body:
        if key not in required | optional:
            near = difflib.get_close_matches(str(key), sorted(required | optional), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PolicyMalformed(f"{at}: unknown field {key!r}{hint}")
    for key in sorted(required):
        if key not in body:
            raise PolicyMalformed(f"{at}: {key} is missing")
