"""Ask libbpf what it makes of an object's relocations against given BTF: it opens, relocates and tries to load.

The instructions it relocated are read back before the kernel is asked; whether the load goes well is told apart.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from btf.insn import Insn, decode_insns

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _OpenOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("reserved", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_char_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    ]


@dataclass
class Truth:
    """``loaded``: None, or the negative errno; ``log``: libbpf's words; ``instructions``: relocated, by program."""

    loaded: int | None = None
    log: list[str] = field(default_factory=list)
    instructions: dict[str, tuple[Insn, ...]] = field(default_factory=dict)

    @property
    def relocated(self) -> bool:
        """Whether relocation came to its end, whatever the verifier said later."""
        return not any("failed to relocate" in line or "failed to perform CO-RE" in line for line in self.log)


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    lib.bpf_object__open_file.restype = ctypes.c_void_p
    lib.bpf_object__open_file.argtypes = [ctypes.c_char_p, ctypes.POINTER(_OpenOptions)]
    lib.bpf_object__load.argtypes = [ctypes.c_void_p]
    lib.bpf_object__close.argtypes = [ctypes.c_void_p]
    lib.bpf_object__close.restype = None
    lib.bpf_object__next_program.restype = ctypes.c_void_p
    lib.bpf_object__next_program.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    for name, result in (("name", ctypes.c_char_p), ("insns", ctypes.c_void_p), ("insn_cnt", ctypes.c_size_t)):
        function = getattr(lib, f"bpf_program__{name}")
        function.restype, function.argtypes = result, [ctypes.c_void_p]
    lib.libbpf_set_print.restype = ctypes.c_void_p
    return lib


def ask_libbpf(path: Path, btf: Path | None) -> Truth:
    """Open *path*, relocate it against *btf* (None: the running kernel), try to load it; needs root."""
    assert os.geteuid() == 0, "bpf() needs root"
    lib, truth = _library(), Truth()
    libc = ctypes.CDLL(None)

    @_PRINT
    def narrate(_level: int, text: bytes, arguments: int) -> int:
        line = ctypes.create_string_buffer(4096)
        libc.vsnprintf(line, ctypes.c_size_t(4096), text, ctypes.c_void_p(arguments))
        truth.log += line.value.decode(errors="replace").splitlines()
        return 0

    lib.libbpf_set_print(narrate)
    options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), btf_custom_path=str(btf).encode() if btf else None)
    obj = lib.bpf_object__open_file(str(path).encode(), ctypes.byref(options))
    assert obj, truth.log
    try:
        result = lib.bpf_object__load(obj)
        truth.loaded = None if result == 0 else result
        program = lib.bpf_object__next_program(obj, None)
        while program:
            size = 8 * lib.bpf_program__insn_cnt(program)
            code = ctypes.string_at(lib.bpf_program__insns(program), size)
            truth.instructions[lib.bpf_program__name(program).decode()] = decode_insns(code)
            program = lib.bpf_object__next_program(obj, program)
    finally:
        lib.bpf_object__close(obj)
        lib.libbpf_set_print(_PRINT(0))
    return truth


def write_btf(path: Path, data: bytes) -> Path:
    """Write raw BTF where libbpf can read it."""
    assert struct.unpack_from("H", data)[0] == 0xEB9F
    path.write_bytes(data)
    return path
