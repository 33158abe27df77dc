"""Bundle the collector for its journey: one Python script, one shell script, and the command that picks between them.

Runs on the controller. What a host executes is exactly the files beside this one.
"""

import base64
import shlex
import zlib
from functools import lru_cache
from pathlib import Path

_HERE = Path(__file__).parent
# In the order they need each other; ``main`` is what runs.
MODULES = (
    "document",
    "kernel_facts",
    "policy_facts",
    "hook_facts",
    "machine_facts",
    "netlink",
    "network_facts",
    "btf_names",
    "bpf_call",
    "bpf_tables",
    "bpf_probe",
    "bpf_attach",
    "bpf_facts",
    "main",
)
_PACKAGE = "inventory.collector"
_LOADER = """\
import sys, types
for name in ("inventory", "{package}"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
sys.modules["inventory"].collector = sys.modules["{package}"]
for name, source in SOURCES:
    module = types.ModuleType("{package}." + name)
    sys.modules[module.__name__] = module
    setattr(sys.modules["{package}"], name, module)
    exec(compile(source, module.__name__, "exec"), module.__dict__)
sys.exit(sys.modules["{package}.main"].main())
"""
# A fifth of the bytes travels, and the encryption of bytes is most of what a scan costs this side.
_UNPACK = "import base64, zlib\nexec(zlib.decompress(base64.b64decode({packed!r})))\n"
# The distribution's own Python first: bcc is installed for that one.
_PICK = """\
for python in /usr/bin/python3 python3 /usr/libexec/platform-python; do
  if $python -c 'import sys, json, ctypes, zlib; sys.exit(sys.version_info < (3, 6))' </dev/null >/dev/null 2>&1; then
    exec $python - packed
  fi
done
"""


@lru_cache(maxsize=1)
def collector_source() -> bytes:
    """Return the collector as one self-contained script for Python 3.6 or newer; ASCII."""
    rows = "".join(f"    ({name!r}, {(_HERE / f'{name}.py').read_text(encoding='utf-8')!a}),\n" for name in MODULES)
    return f"SOURCES = (\n{rows})\n{_LOADER.format(package=_PACKAGE)}".encode("ascii")


@lru_cache(maxsize=1)
def packed_source() -> bytes:
    """Return the same script as one that unpacks itself."""
    packed = base64.b64encode(zlib.compress(collector_source(), 9)).decode("ascii")
    return _UNPACK.format(packed=packed).encode("ascii")


@lru_cache(maxsize=1)
def collector_command() -> str:
    """Return the shell command that reads :func:`packed_source` from its input, or does without Python.

    What it answers is read by ``inventory.collect``: the document as a line of JSON, or packed.
    """
    reduced = (_HERE / "reduced.sh").read_text(encoding="utf-8")
    return f"exec /bin/sh -c {shlex.quote(_PICK + reduced)}"
