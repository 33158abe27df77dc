"""Start a command under a seccomp filter that answers ``bpf()`` with an errno of choice. Touches nothing else.

    python -m fleet.lab.seccomp --bpf EPERM|ENOSYS|EINVAL|SUCCESS -- COMMAND [ARGUMENT]…

``SUCCESS`` makes every call seem to succeed and do nothing: a kernel that no probe may believe. The filter is inherited
by everything the command starts and cannot be taken off again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# machine → (audit architecture, bpf() system call number)
_MACHINES = {"x86_64": (0xC000003E, 321), "aarch64": (0xC00000B7, 280)}
_ERRNOS = {"EPERM": errno.EPERM, "ENOSYS": errno.ENOSYS, "EINVAL": errno.EINVAL, "SUCCESS": 0}
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def bpf_filter(machine: str, answer: int) -> bytes:
    """Return the classic BPF program: on *machine*, ``bpf()`` fails with errno *answer*, the rest is allowed."""
    architecture, number = _MACHINES[machine]
    rows = (
        (_LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
        (_JUMP_EQUAL, 0, 3, architecture),  # another ABI has other numbers: leave it alone
        (_LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        (_JUMP_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _RET_ERRNO | answer),
        (_RETURN, 0, 0, _RET_ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def install(answer: int) -> None:
    """Put the filter on this process; raises OSError when the kernel refuses."""
    code = ctypes.create_string_buffer(bpf_filter(platform.machine(), answer))
    program = _Program((len(code) - 1) // 8, ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    # Root keeps the right to gain privileges by exec, which sshd's children need; others must give it up.
    if os.geteuid() != 0 and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter")


def main(argv: list[str]) -> int:
    """Install the filter and become the command; returns only when that fails."""
    if len(argv) < 4 or argv[0] != "--bpf" or argv[1] not in _ERRNOS or argv[2] != "--":
        sys.stderr.write(f"usage: python -m fleet.lab.seccomp --bpf {'|'.join(_ERRNOS)} -- COMMAND [ARGUMENT]…\n")
        return 2
    try:
        install(_ERRNOS[argv[1]])
        os.execvp(argv[3], argv[3:])  # noqa: S606 - becoming the command is the job
    except (OSError, KeyError) as error:
        sys.stderr.write(f"fleet.lab.seccomp: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
