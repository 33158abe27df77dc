"""Programs of others: what the kernel runs that is not ours. Reads only; bounded, however many there are."""

import ctypes
import errno
import os
import struct
from typing import Any, Dict, Iterable, List, Optional

from inventory.collector.bpf_call import INFO_BY_FD, Kernel, NoNumbersError, close

# Since Linux commit 34ad5580f8f9 ("bpf: Add BPF_(PROG|MAP)_GET_NEXT_ID command") (v4.13)
PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID = 11, 13
MAX_SEEN = 4096  # programs that are asked about
MAX_TOLD = 64  # programs that are told
_INFO = 80  # bytes of struct bpf_prog_info up to and with the name

_TYPES = (
    "unspec", "socket_filter", "kprobe", "sched_cls", "sched_act", "tracepoint", "xdp", "perf_event", "cgroup_skb",
    "cgroup_sock", "lwt_in", "lwt_out", "lwt_xmit", "sock_ops", "sk_skb", "cgroup_device", "sk_msg", "raw_tracepoint",
    "cgroup_sock_addr", "lwt_seg6local", "lirc_mode2", "sk_reuseport", "flow_dissector", "cgroup_sysctl",
    "raw_tracepoint_writable", "cgroup_sockopt", "tracing", "struct_ops", "ext", "lsm", "sk_lookup", "syscall",
    "netfilter",
)  # fmt: skip


def others(ours: Iterable[int]) -> Dict[str, Any]:
    """Return ``{"answer", "count", "programs"}`` of the programs whose ids are not among *ours*, newest first."""
    known = set(ours)
    try:
        kernel = Kernel()
    except (NoNumbersError, OSError) as error:
        return {"answer": "unknown", "count": None, "programs": [], "detail": str(error)}
    found: List[Dict[str, Any]] = []
    at, trouble = 0, 0
    for _ in range(MAX_SEEN):
        argument = ctypes.create_string_buffer(struct.pack("=III", at, 0, 0), 12)
        result, trouble = kernel.bpf(PROG_GET_NEXT_ID, argument)
        if result < 0:
            break
        at = struct.unpack_from("=I", argument.raw, 4)[0]
        row = None if at in known else _told(kernel, at)
        if row:
            found.append(row)
    if trouble in (errno.EPERM, errno.EACCES):
        return {"answer": "blocked", "count": None, "programs": [], "detail": errno.errorcode[trouble]}
    if trouble not in (0, errno.ENOENT):
        detail = errno.errorcode.get(trouble, str(trouble))
        return {"answer": "unknown", "count": None, "programs": [], "detail": detail}
    return {"answer": "yes", "count": len(found), "programs": found[::-1][:MAX_TOLD]}


def _told(kernel: Kernel, number: int) -> Optional[Dict[str, Any]]:
    """One program's id, type, name and tag; None when it went away meanwhile."""
    descriptor, _ = kernel.bpf(PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
    if descriptor < 0:
        return None
    try:
        os.set_inheritable(descriptor, False)
        info = ctypes.create_string_buffer(_INFO)
        result, _ = kernel.bpf(INFO_BY_FD, struct.pack("=IIQ", descriptor, _INFO, ctypes.addressof(info)))
        if result < 0:
            return None
        kind, _, tag = struct.unpack_from("=II8s", info.raw)
        name = info.raw[64:80].split(b"\0", 1)[0].decode("ascii", "replace")
        told = _TYPES[kind] if kind < len(_TYPES) else str(kind)
        return {"id": number, "type": told, "name": name, "tag": "".join("%02x" % byte for byte in tag)}
    finally:
        close(descriptor)
