"""Packed bytes in, unpacked bytes out, for every way a kernel or its modules are packed. To add one: a row.

What is packed may come from anybody: output is made in bounded pieces and ends at a limit, and nothing is believed
about sizes. Bytes behind a whole stream are ignored, as kernels keep their unpacked size there.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from btf.fault import EXIT_USAGE, Fault

MAX_UNPACKED = 256 * 1024 * 1024  # bytes; distribution kernels unpack to 30 to 100 MB
_STEP = 1 << 20  # bytes made at once
_WINDOW = 1 << 27  # `zstd --ultra -22` and newer kernels' xz look back 128 MB
_LZ4_BLOCK = 8 << 20  # the legacy frame's only block size
_LZO_BLOCK = 256 << 10  # what the kernel's own decoder takes at most
_LZOP_FILTER, _LZOP_SUMS, _LZOP_PACKED_SUMS = 0x800, (0x1, 0x100), (0x2, 0x200)


class PackedMalformed(Fault):
    """Packed bytes that do not unpack; the message says from which byte on."""

    code = "COR-BTF-031"
    exit = EXIT_USAGE
    remedy = "Copy the file again; if it repeats, unpack it by hand and give what comes out."


class UnpacksTooLarge(Fault):
    """Packed bytes that unpack to more than any kernel."""

    code = "COR-BTF-032"
    exit = EXIT_USAGE
    remedy = "Nothing was kept of it. If it is a real kernel, unpack it by hand and give the vmlinux inside."


class _Broken(Exception):
    """A stream's own structure is wrong."""


@dataclass(frozen=True, slots=True)
class _Packing:
    """One way to pack: how it starts, and what makes pieces of a stream."""

    name: str
    magic: bytes
    pieces: Callable[[memoryview], Iterator[bytes]]


def packing_of(data: bytes | bytearray | memoryview) -> str | None:
    """Return how *data* is packed, told by its first bytes: a name such as ``xz``, or None."""
    head = bytes(data[:16])
    return next((p.name for p in PACKINGS if head.startswith(p.magic)), None)


def unpack(data: bytes | bytearray | memoryview, *, limit: int = MAX_UNPACKED, at: int = 0) -> bytearray:
    """Return what the stream at the start of *data* unpacks to, at most *limit* bytes.

    *at* is where *data* lies in its file, for errors. Raise PackedMalformed or UnpacksTooLarge.
    """
    head = bytes(data[:16])
    packing = next((p for p in PACKINGS if head.startswith(p.magic)), None)
    if packing is None:
        raise PackedMalformed(f"byte {at}: not packed in a way we know (0x{head[:4].hex()})")
    made = bytearray()
    try:
        for piece in packing.pieces(memoryview(data)):
            made += piece
            if len(made) > limit:
                times = len(made) // max(len(data), 1)
                raise UnpacksTooLarge(
                    f"byte {at}: {len(data)} bytes of {packing.name} unpack to more than {limit} ({times} times)"
                )
    except _failures() as error:
        raise PackedMalformed(f"byte {at}: not whole {packing.name}: {error or type(error).__name__}") from None
    return made


def _failures() -> tuple[type[Exception], ...]:
    from lz4.block import LZ4BlockError
    from lzallright import InputNotConsumed, LZOError
    from zstandard import ZstdError

    return (_Broken, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, OverflowError, struct.error,
            ZstdError, LZ4BlockError, LZOError, InputNotConsumed)  # fmt: skip


def _gzip(data: memoryview) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=31)
    rest: bytes | memoryview = data
    while not decoder.eof:
        piece = decoder.decompress(rest[:_STEP], _STEP)
        # What the limit left over comes before what was not given yet.
        taken = min(len(rest), _STEP) - len(decoder.unconsumed_tail)
        if not piece and not taken:
            raise _Broken("cut off")
        rest = rest[taken:]
        yield piece


def _xz(data: memoryview) -> Iterator[bytes]:
    return _stepwise(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=2 * _WINDOW), data)


def _lzma(data: memoryview) -> Iterator[bytes]:
    return _stepwise(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=2 * _WINDOW), data)


def _bzip2(data: memoryview) -> Iterator[bytes]:
    return _stepwise(bz2.BZ2Decompressor(), data)


def _stepwise(decoder: lzma.LZMADecompressor | bz2.BZ2Decompressor, data: memoryview) -> Iterator[bytes]:
    at = 0
    while not decoder.eof:
        given = b""
        if decoder.needs_input:
            given = bytes(data[at : at + _STEP])
            at += len(given)
            if not given:
                raise _Broken("cut off")
        yield decoder.decompress(given, _STEP)


def _zstd(data: memoryview) -> Iterator[bytes]:
    from zstandard import ZstdDecompressor

    decoder = ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    # It cannot be told to make less; four bytes make at most 128 KB, so what is given at once bounds what comes.
    for at in range(0, len(data), 1024):
        yield decoder.decompress(data[at : at + 1024])
        if decoder.eof:
            return
    raise _Broken("cut off")


def _lz4(data: memoryview) -> Iterator[bytes]:
    """The legacy frame, which the kernel's build uses: a magic number, then blocks behind their lengths."""
    from lz4.block import decompress

    at, made = 4, 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if made and (length == made or not length or at == len(data)):
            return  # the unpacked size that the kernel's build appends
        if length == _LZ4_MAGIC:
            continue
        if not length or length > len(data) - at:
            raise _Broken(f"a block of {length} bytes at byte {at} of {len(data)}")
        piece = decompress(data[at : at + length], uncompressed_size=_LZ4_BLOCK)
        at, made = at + length, made + len(piece)
        yield piece
    if not made:
        raise _Broken("cut off")


_LZ4_MAGIC = 0x184C2102


def _lzop(data: memoryview) -> Iterator[bytes]:
    """The header of lzop, then blocks with their two lengths and check sums, then a length of zero."""
    from lzallright import LZOCompressor

    at = _lzop_header(data)
    (flags,) = struct.unpack_from(">I", data, 17)
    sums = 4 * sum(bool(flags & bit) for bit in _LZOP_SUMS)
    packed_sums = 4 * sum(bool(flags & bit) for bit in _LZOP_PACKED_SUMS)
    while True:
        (size,) = struct.unpack_from(">I", data, at)
        if not size:
            return
        (packed,) = struct.unpack_from(">I", data, at + 4)
        start = at + 8 + sums + (packed_sums if packed < size else 0)
        if size > _LZO_BLOCK or not 0 < packed <= size or start + packed > len(data):
            raise _Broken(f"a block of {packed} bytes for {size} at byte {at} of {len(data)}")
        piece = bytes(data[start : start + packed])
        if packed < size:
            piece = LZOCompressor.decompress(piece, size)
        if len(piece) != size:
            raise _Broken(f"the block at byte {at} gives {len(piece)} bytes, not {size}")
        if flags & _LZOP_SUMS[0] and zlib.adler32(piece) != struct.unpack_from(">I", data, at + 8)[0]:
            raise _Broken(f"the block at byte {at} has another check sum")
        yield piece
        at = start + packed


def _lzop_header(data: memoryview) -> int:
    """Return where the first block starts. Only the layout of lzop 0.94 (1996) and newer is read."""
    version, _, _, _, _, flags = struct.unpack_from(">HHHBBI", data, 9)
    if version < 0x0940:
        raise _Broken(f"lzop version 0x{version:04x} is older than any kernel")
    at = 21 + (4 if flags & _LZOP_FILTER else 0) + 12
    return at + 1 + data[min(at, len(data) - 1)] + 4


PACKINGS: tuple[_Packing, ...] = (
    _Packing("gzip", b"\x1f\x8b\x08", _gzip),
    _Packing("xz", b"\xfd7zXZ\0", _xz),
    _Packing("zstd", b"\x28\xb5\x2f\xfd", _zstd),
    _Packing("lz4", struct.pack("<I", _LZ4_MAGIC), _lz4),
    _Packing("bzip2", b"BZh", _bzip2),
    _Packing("lzop", b"\x89LZO\0\r\n\x1a\n", _lzop),
    _Packing("lzma", b"\x5d\0\0", _lzma),
)
