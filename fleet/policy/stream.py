"""A YAML stream of documents, bounded and without surprises. It knows nothing of policies but where lists hold them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from fleet.policy.fault import PolicyMalformed

MAX_BYTES = 1024 * 1024


class _StrictLoader(yaml.SafeLoader):
    """YAML without anchors (they multiply) and without a key written twice (one of the two would be lost)."""

    def compose_node(self, parent: yaml.nodes.Node | None, index: int) -> yaml.nodes.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            line = self.get_mark().line + 1
            raise PolicyMalformed(f"line {line}: YAML aliases are not accepted", remedy="Write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.nodes.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise PolicyMalformed(f"line {key.start_mark.line + 1}: key {key.value!r} is written twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def read_stream(data: bytes) -> list[Any]:
    """Return the documents of a YAML stream, Kubernetes lists opened; empty documents are left out."""
    if len(data) > MAX_BYTES:
        raise PolicyMalformed(f"the policy file is larger than {MAX_BYTES} bytes")
    try:
        stream = list(yaml.load_all(data, Loader=_StrictLoader))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise PolicyMalformed(f"not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise PolicyMalformed(f"not YAML: {type(error).__name__}") from None
    return [item for document in stream if document is not None for item in _opened(document)]


def _opened(document: Any) -> Iterator[Any]:
    if isinstance(document, dict) and document.get("kind") in ("List", "NetworkPolicyList"):
        items = document.get("items")
        if not isinstance(items, list):
            raise PolicyMalformed("a list of policies needs items")
        yield from items
    else:
        yield document
