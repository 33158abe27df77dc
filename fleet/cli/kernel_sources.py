"""The kernels that a command is told to look at: BTF files, builds of the archive, images, the running one."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from btf.fault import EXIT_USAGE, Fault, printable

if TYPE_CHECKING:
    from btf.archive.archive import Archive, Entry
    from btf.archive.kernel_image import KernelImage
    from btf.format.types import Btf
    from fleet.compatibility.check import KernelBtf
    from fleet.compatibility.symbols import Symbols

KALLSYMS = Path("/proc/kallsyms")
# Where distributions put the kernels that may boot next.
INSTALLED = ("boot/vmlinuz-*", "boot/vmlinux-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz",
             "efi/EFI/Linux/*.efi", "boot/EFI/Linux/*.efi", "boot/efi/EFI/Linux/*.efi")  # fmt: skip
_MAX_CONFIG = 4 << 20
BTF_NAMES = (".btf", ".btf.tar.xz")


class NoSuchKernel(Fault):
    """A kernel that is named is not at hand, or has no BTF to look at."""

    code = "COR-CLI-021"
    exit = EXIT_USAGE
    remedy = "`corollout kernels list -o wide` shows what the archive has; --btf and --image take files."


def from_file(path: Path) -> KernelBtf:
    """Return the kernel whose BTF is in *path*."""
    from btf.archive.btf_file import read_btf_file, release_of_file
    from btf.archive.running import RUNNING_BTF

    if path == RUNNING_BTF:
        return running()
    label = path.name
    for suffix in BTF_NAMES:
        label = label.removesuffix(suffix)
    return replace(kernel_btf(read_btf_file(path), release=release_of_file(path)), label=printable(label))


def from_folder(folder: Path, unread: list[Fault]) -> Iterator[KernelBtf]:
    """Yield the kernels whose BTF lies below *folder*, by path, 6.9 before 6.12; what is none goes to *unread*."""
    found = [p for p in folder.rglob("*") if p.name.endswith(BTF_NAMES) and p.is_file()]
    if not found:
        raise NoSuchKernel(f"{folder}: no {' or '.join(BTF_NAMES)} file is in it or below")
    for path in sorted(found, key=lambda p: [_numbered(part) for part in p.relative_to(folder).parts]):
        try:
            yield from_file(path)
        except Fault as fault:
            unread.append(fault)


def running() -> KernelBtf:
    """Return the kernel that runs here."""
    from btf.archive.btf_file import read_btf_file
    from btf.archive.running import RUNNING_BTF, running_kernel

    if not RUNNING_BTF.exists():
        raise NoSuchKernel("this kernel shows no BTF", remedy="Give --btf FILE, --image FILE or --kernel ID.")
    here = running_kernel()
    kernel = kernel_btf(
        read_btf_file(RUNNING_BTF), release=here.release, arch=here.arch, build_id=here.build_id, config=_own_config()
    )
    return replace(kernel, symbols=symbols_of(KALLSYMS), modules=loaded_modules(RUNNING_BTF.parent, kernel.btf))


def loaded_modules(folder: Path, kernel: Btf) -> dict[str, Btf]:
    """Return the modules that show their BTF in *folder*, where the running kernel does, by name."""
    from btf.archive.btf_file import read_bounded
    from btf.archive.module import KernelModule, parse_module

    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != "vmlinux":
            # What cannot be read or parsed here, a loader does not find either.
            with suppress(Fault):
                found[path.name] = parse_module(KernelModule(path.name, read_bounded(path)), kernel)
    return found


def symbols_of(path: Path) -> Callable[[], Symbols | None]:
    """Return what reads the list of functions in *path*, once and when first asked; None where it cannot be read."""

    @cache
    def read() -> Symbols | None:
        from fleet.compatibility.symbols import parse_symbols

        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return parse_symbols(file)
        except OSError:
            return None

    return read


def with_symbols(kernels: Iterator[KernelBtf], path: Path) -> Iterator[KernelBtf]:
    """Yield the only one of *kernels* with the list of its functions in *path*."""
    symbols = symbols_of(path)
    if symbols() is None:
        raise NoSuchKernel(f"{path}: no list of functions can be read there")
    for number, kernel in enumerate(kernels):
        if number:
            raise NoSuchKernel("a list of functions is of one kernel, and several are named")
        yield replace(kernel, symbols=symbols)


def _own_config() -> Mapping[str, str] | None:
    """Return the kconfig of the running kernel where it shows it."""
    from inventory.collector.kernel_facts import parse_kconfig

    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8", errors="replace") as file:
            return {k: printable(v) for k, v in parse_kconfig(file.read(_MAX_CONFIG)).items()}
    except (OSError, EOFError, zlib.error):
        return None


def from_archive(archive: Archive, wanted: str, modules: Sequence[str] = ()) -> KernelBtf:
    """Return exactly the build *wanted* of the archive, with those *modules* loaded whose BTF the archive has, too."""
    from btf.archive.archive import KernelName
    from btf.archive.near_misses import near_misses
    from btf.format.parse import parse_btf

    entry = archive.entry(wanted)
    if entry is None:
        near = near_misses(archive.list(), KernelName(wanted.partition("/")[0]))
        has = f"; it has {near[0]}" if near else ""
        raise NoSuchKernel(
            f"the archive has no BTF of kernel {wanted!r}{has}", remedy="`corollout kernels import` adds it."
        )
    kernel = from_entry(archive, entry)
    stored = {m.module: m for m in archive.modules(entry.sha256)}
    loaded = {}
    for name in (module.replace("-", "_") for module in modules):
        if name not in stored:
            raise NoSuchKernel(
                f"the archive has no BTF of module {name!r} of {kernel.name}",
                remedy="`corollout kernels import MODULE.ko` adds it.",
            )
        loaded[name] = parse_btf(archive.get(stored[name].sha256), base=kernel.btf)
    return replace(kernel, modules=loaded)


def find(archive: Archive, wanted: str) -> KernelBtf:
    """Return the one kernel that *wanted* names: ``running``, a file of BTF or an image, a build's id or its start."""
    from btf.archive.kernel_image import ImageUnreadable

    if wanted == "running":
        return running()
    path = Path(wanted)
    if path.is_file():
        try:
            return from_image(path) if path.parent != Path("/sys/kernel/btf") else from_file(path)
        except ImageUnreadable:
            return from_file(path)
    return from_entry(archive, entry_called(archive, wanted))


def entry_called(archive: Archive, wanted: str) -> Entry:
    """Return the archive's only build whose id starts with *wanted*, or whose release it is."""
    entries = archive.list()
    for found in (
        [e for e in entries if e.kernel_id == wanted],
        [e for e in entries if e.name.release == wanted],
        [e for e in entries if wanted and e.kernel_id.startswith(wanted)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise NoSuchKernel(f"{len(found)} kernels of the archive are called {wanted!r}")
    raise NoSuchKernel(f"neither a file nor a kernel of the archive: {wanted!r}")


def from_entry(archive: Archive, entry: Entry) -> KernelBtf:
    """Return the kernel of one entry of the archive."""
    from btf.format.parse import parse_btf

    build_id = entry.kernel_id.partition("/")[0]
    kernel = kernel_btf(
        archive.get(entry.sha256),
        release=entry.name.release or None,
        arch=entry.name.arch or None,
        build_id=build_id if re.fullmatch(r"[0-9a-f]{8,128}", build_id) else None,
    )
    stored = archive.modules(entry.sha256)
    return replace(kernel, modules={m.module: parse_btf(archive.get(m.sha256), base=kernel.btf) for m in stored})


def from_image(path: Path) -> KernelBtf:
    """Return the kernel of the image *path*, with its kconfig where it has one or one lies beside."""
    from btf.archive.btf_file import read_image_file

    return _of_image(path, read_image_file(path))


def _of_image(path: Path, image: KernelImage) -> KernelBtf:
    from btf.archive.btf_file import WithoutBtf
    from btf.archive.running import running_kernel

    if image.btf is None:
        raise WithoutBtf(f"{path}: {image.why}")
    return kernel_btf(
        image.btf,
        release=image.release,
        arch=image.arch,
        build_id=image.build_id,
        config=_config(path, image),
        next_boot=image.build_id is None or image.build_id != running_kernel().build_id,
    )


def installed(root: Path, unread: list[Fault]) -> Iterator[KernelBtf]:
    """Yield the kernels installed under *root*, by release, each build once; what has no BTF goes to *unread*."""
    from btf.archive.btf_file import read_image_file

    paths = {found.resolve(): found for pattern in reversed(INSTALLED) for found in root.glob(pattern)}
    seen = set()
    for path in sorted(paths.values(), key=_by_release):
        try:
            image = read_image_file(path)
            if image.kernel_id not in seen:
                seen.add(image.kernel_id)
                yield _of_image(path, image)
        except Fault as fault:
            unread.append(fault)


def _by_release(path: Path) -> list[tuple[int, str]]:
    """Order 6.9 before 6.12: by the release in the file's name, else in its folder's."""
    found = re.search(r"\d.*", path.name) or re.search(r"\d.*", path.parent.name)
    return _numbered(found[0] if found else path.name)


def _numbered(text: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(int(part[:18]), "") if part.isdigit() else (-1, part) for part in parts]


def _config(path: Path, image: KernelImage) -> Mapping[str, str] | None:
    """Return the kconfig options that decide something, from the image or the file beside it; None without any."""
    from inventory.collector.kernel_facts import parse_kconfig

    text = image.config
    if text is None and image.release:
        for place in (path.with_name(f"config-{image.release}"), path.with_name("config")):
            try:
                with place.open("rb") as file:
                    text = file.read(_MAX_CONFIG).decode("utf-8", "replace")
                break
            except OSError:
                continue
    return {k: printable(v) for k, v in parse_kconfig(text).items()} if text else None


def kernel_btf(
    data: bytes, *, release: str | None = None, arch: str | None = None, build_id: str | None = None,
    config: Mapping[str, str] | None = None, next_boot: bool = False,
) -> KernelBtf:  # fmt: skip
    """Return the kernel whose BTF is *data*, as ``check`` takes it; raise BtfMalformed."""
    from btf.format.architecture import architecture
    from btf.format.parse import parse_btf
    from fleet.compatibility.check import KernelBtf

    btf = parse_btf(data)
    return KernelBtf(
        btf,
        hashlib.sha256(data).hexdigest(),
        printable(release) if release else None,
        arch or architecture(btf),
        build_id=build_id,
        config=config,
        next_boot=next_boot,
    )


def chosen(
    files: Sequence[Path],
    ids: Sequence[str],
    images: Sequence[Path],
    archive: Archive,
    unread: list[Fault],
    modules: Sequence[str] = (),
) -> Iterator[KernelBtf]:
    """Yield every kernel named, in the order files, builds, images; the running one when none is.

    *modules* are loaded on each of the builds. What is none of the files of a folder goes to *unread*.
    """
    for path in files:
        yield from from_folder(path, unread) if path.is_dir() else (from_file(path),)
    for wanted in ids:
        yield from_archive(archive, wanted, modules)
    yield from map(from_image, images)
    if not (files or ids or images):
        yield running()
