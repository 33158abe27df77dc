"""tcp-flow's BCC build, compiled and run here.

The headers are Debian's, of another kernel than the running one: the tracepoint's own fields are right, what is read
from kernel structures is not, and no host would be allowed this. What can be compared is compared with the CO-RE build.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import TCP_FLOW, WITH_TRACEFS, child
from namespaces import Namespace, pair
from test_tcp_flow import CLOCK, Exchange, core_in, perform

from probes.programs.tcp_flow import adapter

pytestmark = pytest.mark.kernel

SOURCE = TCP_FLOW / "legacy.bcc.c"
RIGHT = ("saddr", "daddr", "sport", "dport", "role", "established", "old_state", "pid", "comm", "sent_known")
NO_LIMIT = '{"kind": "host", "netns": 0, "cgroup": 0}'


@pytest.fixture
def compiler(tmp_path: Path) -> list[str]:
    """The words that run a command where BCC finds headers, tracefs and debugfs."""
    near = sorted(Path("/usr/src").glob("linux-headers-*-amd64"))[-1]
    common = near.with_name(near.name.replace("-amd64", "-common"))
    mounts = (
        f"mount -t debugfs none /sys/kernel/debug && "
        f"mount -t overlay -o lowerdir={near}:{common} none {tmp_path} && "
        f'BCC_KERNEL_SOURCE={tmp_path} exec "$@"'
    )
    return [*WITH_TRACEFS, "unshare", "-m", "sh", "-c", mounts, "sh"]


@pytest.fixture
def sides() -> Iterator[tuple[Namespace, Namespace]]:
    with pair() as made:
        yield made


def test_bcc_gives_the_core_builds_record(compiler: list[str], sides: tuple[Namespace, Namespace]) -> None:
    here = Path(__file__).parent
    words = [*compiler, "/usr/bin/python3", here / "bcc_process.py", SOURCE, TCP_FLOW / "adapter.py", NO_LIMIT]
    client, server = sides
    with child(words) as bcc, core_in(client) as core:
        core.wait("ready")
        bcc.wait("loaded")
        perform(client, server, Exchange("before the scope", 1, 1))  # attached, but not yet told what to report
        core.records(1)
        bcc.order("scope")
        bcc.wait("ready")
        truth = perform(client, server, Exchange("seen", 1234, 5000))
        expected = core.records(2)[1]
        while (raw := bcc.wait("record")["data"])["sport"] != truth["sport"]:
            assert raw["sport"] != core.records(1)[0]["sport"]
    assert list(raw) == list(expected)  # the same fields in the same order
    assert {name: raw[name] for name in RIGHT} == {name: expected[name] for name in RIGHT}
    record = adapter.normalise(raw, CLOCK)
    assert (record["saddr"], record["daddr"], record["role"]) == (truth["saddr"], truth["daddr"], "client")
