"""Collect all facts of this host into one document: the order of the parts and nothing of their content.

Runs on hosts: Python 3.6 or newer, standard library only. Changes nothing that outlives it.
"""

import sys
import time
from typing import Any, Dict, Optional

from inventory.collector import (
    document,
    hook_facts,
    kernel_facts,
    machine_facts,
    policy_facts,
)

_CHILD_S = 15.0
_TOOLS_S = 10.0


def collect() -> Dict[str, Any]:
    """Return the facts document of this host."""
    started, clock = time.time(), time.time()
    report = document.Report()
    bcc = hook_facts.start_bcc()  # the slowest part, so it runs beside the others
    tools = machine_facts.start_tools()
    kernel_facts.collect(report)
    rows = hook_facts.mounts(report)
    hook_facts.cgroups(report, rows)
    policy_facts.collect(report)
    hook_facts.hooks(report)
    hook_facts.headers(report)
    machine_facts.collect(report)
    _native(report, hook_facts.tracing_folder(report), tools)
    hook_facts.finish_bcc(report, bcc, _TOOLS_S)
    return report.document(round(started, 3), int((time.time() - clock) * 1000))


def _native(report: document.Report, tracefs: Optional[str], tools: machine_facts.Tools) -> None:
    """Add what needs system calls of its own. A Python without ctypes cannot make them."""
    try:
        from inventory.collector import bpf_facts, network_facts
    except ImportError as error:
        machine_facts.finish_tools(report, tools, _TOOLS_S)
        for name in ("bpf.syscall", "bpf.reliable", "net.interfaces", "netfilter.rules"):
            report.unknown(name, "ctypes", str(error))
        return
    bpf_facts.collect(report, tracefs, _CHILD_S)
    machine_facts.finish_tools(report, tools, _TOOLS_S)
    network_facts.collect(report)


def main() -> int:
    """Write the document to standard output; packed when an argument says so."""
    line = document.encode(collect())
    sys.stdout.write((document.pack(line) if "packed" in sys.argv else line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
