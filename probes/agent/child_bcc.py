"""The child that holds a BCC build: compiles the artefact's source here and speaks the child protocol for it.

BCC attaches what its function names say (``TRACEPOINT_PROBE``, ``kprobe__``); the adapter's ``bcc_setup`` the rest.
Records come from the table ``events`` or ``events_perf``, whichever the source declares.
"""

import ctypes
import os
import platform
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

from probes.agent import scope as scopes
from probes.agent.child_fallback import trouble
from probes.agent.faults import CannotRun
from probes.agent.protocol import Channel
from probes.agent.spec import Spec
from probes.agent.state import Place
from probes.agent.store import check_artefact, load_module

TABLES = ("events", "events_perf")
_POLL_MS = 200
_PERF_PAGES = 64
_BPF_ENABLE_STATS = (
    32  # Since Linux commit d46edd671a14 ("bpf: Sharing bpf runtime stats with BPF_ENABLE_STATS") (v5.8)
)
# Since Linux commit a0715cc22601 ("mm, thp: add VM_INIT_DEF_MASK and PRCTL_THP_DISABLE") (v3.15)
_PR_SET_THP_DISABLE = 41
_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361, "riscv64": 280}

# Kernel numbers of program types that BCC can load → the runner's names.
_TYPES = {2: "kprobe", 3: "sched_cls", 4: "sched_act", 5: "tracepoint", 6: "xdp", 7: "perf_event", 8: "cgroup_skb",
          17: "raw_tracepoint", 26: "tracing", 29: "lsm"}  # fmt: skip


def _bcc() -> Any:
    """Return iovisor's bcc, or raise CannotRun; another project of that name has no BPF class."""
    try:
        import bcc
    except Exception as error:
        raise CannotRun("bcc cannot be imported: %s" % error) from None
    if not hasattr(bcc, "BPF"):
        raise CannotRun("the bcc that python imports is not iovisor's: install the package python3-bpfcc")
    return bcc


def _source(spec: Spec, place: Place) -> str:
    with open(check_artefact(place.root, "source", spec.files["source"]), encoding="utf-8") as file:
        return file.read()


def _compiled(kind: Any, spec: Spec, place: Place) -> Any:
    """Compile, load, and attach what attaches by its name; the memory the compiler freed goes back to the host."""
    bpf = kind(text=_source(spec, place))
    libc = ctypes.CDLL(None)
    # Where huge pages are made of whatever is there (a distribution's usual setting), each piece that is still in use
    # grows into one again within a minute, and all that was given back is held once more.
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        libc.malloc_trim(0)  # 93 MiB become 24, measured with LLVM 11
    except AttributeError:
        pass  # another C library keeps what it keeps
    return bpf


def _adapter(spec: Spec, place: Place) -> Any:
    digest = spec.files.get("adapter")
    return load_module(place.root, "adapter", digest) if digest else None


def _call(module: Any, name: str, *arguments: Any) -> None:
    function: Optional[Callable[..., Any]] = getattr(module, name, None)
    if function is not None:
        function(*arguments)


def check(spec: Spec, place: Place) -> int:
    """Compile and load every function whose name says its type; attach nothing."""
    channel = Channel()
    try:
        bcc = _bcc()

        class Unattached(bcc.BPF):  # type: ignore[name-defined,misc]  # bcc has no types
            def _trace_autoload(self) -> None:
                kinds = {b"tracepoint__": self.TRACEPOINT, b"raw_tracepoint__": self.RAW_TRACEPOINT,
                         b"kprobe__": self.KPROBE, b"kretprobe__": self.KPROBE}  # fmt: skip
                for number in range(bcc.libbcc.lib.bpf_num_functions(self.module)):
                    name = bcc.libbcc.lib.bpf_function_name(self.module, number)
                    for prefix, kind in kinds.items():
                        if name.startswith(prefix):
                            self.load_func(name, kind)

        bpf = _compiled(Unattached, spec, place)
        programs = [_program(name, function.fd, []) for name, function in sorted(bpf.funcs.items())]
    except Exception as error:
        return trouble(channel, "load", error)
    channel.say("verified", programs=programs, maps=[])
    return 0


def hold(spec: Spec, place: Place) -> int:
    """Compile, attach and stream until the end comes; a networking build's policy stays in place."""
    channel = Channel()
    scope = scopes.resolve(spec.scope)
    adapter = None
    try:
        adapter = _adapter(spec, place)
        bpf = _compiled(_bcc().BPF, spec, place)
        _call(adapter, "bcc_setup", bpf, spec.config, scope, spec.tag)
        _open_events(bpf, channel)
        bodies = {name: function.fd for name, function in sorted(bpf.funcs.items())}
        channel.say("ready", programs=[_program(name, fd, _hooks(name)) for name, fd in bodies.items()], maps=_maps())
    except Exception as error:
        status = trouble(channel, "attach", error)
        _call(adapter, "bcc_cleanup", spec.config, scope, spec.tag)
        return status
    status = 0
    try:
        _stream(bpf, bodies, channel)
    except Exception as error:
        status = trouble(channel, "run", error)
    if not spec.static:
        bpf.cleanup()
        _call(adapter, "bcc_cleanup", spec.config, scope, spec.tag)
    channel.say("bye")
    return status


def remove(spec: Spec, place: Place) -> int:
    """Undo what the build can have left, without loading it; idempotent."""
    channel = Channel()
    try:
        _call(_adapter(spec, place), "bcc_cleanup", spec.config, scopes.resolve(spec.scope), spec.tag)
    except Exception as error:
        return trouble(channel, "remove", error)
    channel.say("detached", removed=[spec.tag])
    return 0


def _open_events(bpf: Any, channel: Channel) -> None:
    for name in TABLES:
        try:
            table = bpf[name]
        except KeyError:
            continue

        def on_record(_cpu: Any, data: Any, _size: Any, table: Any = table) -> None:
            channel.say("record", data=fields(table.event(data)))

        if hasattr(table, "open_perf_buffer"):
            table.open_perf_buffer(on_record, page_cnt=_PERF_PAGES, lost_cb=lambda n: channel.say("lost", count=n))
        else:
            table.open_ring_buffer(on_record)


def _stream(bpf: Any, bodies: Mapping[bytes, int], channel: Channel) -> None:
    stats: List[int] = []
    polls = [p for p in (getattr(bpf, "perf_buffer_poll", None),) if p and bpf.perf_buffers]
    if getattr(bpf, "_ringbuf_manager", None):
        polls.append(bpf.ring_buffer_poll)
    while not channel.stopping(0 if polls else _POLL_MS / 1000.0):
        for poll in polls:
            poll(_POLL_MS)
        for words in channel.orders():
            if words == ["sample"]:
                channel.say("sample", at_ns=int(time.monotonic() * 1e9), maps=_maps(), programs=_counts(bodies))
            elif words == ["stats", "on"]:
                stats += _enable_stats() if not stats else []
                if not stats:
                    channel.say("error", stage="stats", message="this kernel has no run-time statistics to switch on")
            elif words == ["stats", "off"]:
                while stats:
                    _close(stats.pop())
            elif words[:1] == ["dump"] and len(words) == 2:
                channel.say("map", map=words[1], entries=_entries(bpf[words[1]]))


def fields(record: Any) -> Dict[str, Any]:
    """Return a C struct as the runner would: ints as numbers, ``char[]`` as text, other arrays as hex text."""
    found: Dict[str, Any] = {}
    for row in record._fields_:
        name, value = row[0], getattr(record, row[0])
        if name.startswith("__pad"):
            continue
        if isinstance(value, bytes):
            found[name] = value.split(b"\0")[0].decode("utf-8", "replace")
        else:
            found[name] = value if isinstance(value, int) else bytes(value).hex()
    return found


def _fdinfo(descriptor: int) -> Dict[str, str]:
    with open("/proc/self/fdinfo/%d" % descriptor) as file:
        return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in file)}


def _program(name: bytes, descriptor: int, attached: List[str]) -> Dict[str, Any]:
    info = _fdinfo(descriptor)
    kind = _TYPES.get(int(info.get("prog_type", 0)), info.get("prog_type", ""))
    row: Dict[str, Any] = {"name": name.decode(), "type": kind, "tag": info.get("prog_tag", ""), "attached": attached}
    row["id"] = int(info["prog_id"]) if "prog_id" in info else None
    return row


def _hooks(name: bytes) -> List[str]:
    text = name.decode()
    for prefix, kind in (("tracepoint__", "tracepoint"), ("raw_tracepoint__", "raw_tracepoint"), ("kprobe__", "kprobe"),
                         ("kretprobe__", "kretprobe")):  # fmt: skip
        if text.startswith(prefix):
            return ["%s:%s" % (kind, text[len(prefix) :].replace("__", ":"))]
    return []


def _counts(bodies: Mapping[bytes, int]) -> List[Dict[str, Any]]:
    rows = []
    for name, descriptor in bodies.items():
        info = _fdinfo(descriptor)
        row: Dict[str, Any] = {"name": name.decode(), "id": int(info.get("prog_id", 0))}
        row.update({key: int(info.get(key, 0)) for key in ("run_cnt", "run_time_ns", "recursion_misses")})
        rows.append(row)
    return rows


def _maps() -> List[Dict[str, Any]]:
    """Return every map this process holds, by the kernel: BCC names only those that were used."""
    memory: Dict[str, int] = {}
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            info = _fdinfo(int(name))
        except OSError:
            continue  # the descriptor of this very listing
        if "map_id" in info:
            memory[info["map_id"]] = int(info.get("memlock", 0))
    return [{"name": "map %s" % number, "memory_bytes": size} for number, size in sorted(memory.items())]


def _entries(table: Any) -> List[Any]:
    cpus = getattr(table, "total_cpu", 1)
    rows = []
    for key, leaf in table.items():
        data = bytes(leaf)
        size = max(1, len(data) // cpus)
        rows.append([bytes(key).hex(), [data[at : at + size].hex() for at in range(0, len(data), size)]])
    return rows


def _enable_stats() -> List[int]:
    """Return the descriptor that keeps statistics on, or nothing where the kernel has none (before 5.8)."""
    number = _SYSCALL_BPF.get(platform.machine())
    if number is None:
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ctypes.create_string_buffer(128)
    descriptor = libc.syscall(number, _BPF_ENABLE_STATS, attributes, len(attributes))
    return [descriptor] if descriptor >= 0 else []


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        sys.stderr.write("%s\n" % error)
