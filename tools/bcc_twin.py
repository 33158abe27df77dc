"""Writes a program's legacy.bcc.c from its core.bpf.c: the same C with BCC's spelling of maps, so they cannot differ.

Run it after changing core.bpf.c: python3 tools/bcc_twin.py probes/programs/net_policy
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BODY = "/* ---- from here on alike for libbpf and BCC ---- */\n"
HEAD = """/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Generated from core.bpf.c by tools/bcc_twin.py: change that one. BCC compiles this with the host's kernel headers. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>

#define MAP(kind, flags, name, key, value, size) BPF_F_TABLE(kind, key, value, name, size, flags)
#define ARRAY "array"
#define PERCPU_ARRAY "percpu_array"
#define PERCPU_HASH "percpu_hash"
#define LRU_HASH "lru_hash"
#define LPM_TRIE "lpm_trie"

BPF_PERF_OUTPUT(events_perf);

"""
SPELLINGS = (
    (r"bpf_map_lookup_elem\(&(\w+), ", r"\1.lookup("),
    (r"bpf_map_update_elem\(&(\w+), (.*), BPF_ANY\)", r"\1.update(\2)"),
    (r"bpf_perf_event_output\((\w+), &(\w+), BPF_F_CURRENT_CPU, ", r"\2.perf_submit(\1, "),
    (r'SEC\("tc"\)\n', ""),
    (r"/\* SPDX-.*\n", ""),
    (r"#pragma once\n", ""),
)


def twin(folder: Path) -> str:
    """Return the BCC source of the program in *folder*; its core.bpf.c must hold the line BODY."""
    core = (folder / "core.bpf.c").read_text()
    body = core[core.index(BODY) + len(BODY) :]
    body = re.sub(r'#include "(\w+\.h)"\n', lambda found: (folder / found[1]).read_text() + "\n", body)
    for pattern, spelling in SPELLINGS:
        body = re.sub(pattern, spelling, body)
    return HEAD + body.lstrip("\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "legacy.bcc.c").write_text(twin(folder))
