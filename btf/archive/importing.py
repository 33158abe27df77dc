"""Bring BTF into the archive from files of every kind: what a file is, whose BTF it holds, and that it is kept whole.

A file says itself which kernel it is of, or the folders of a BTF archive do (``distribution/version/arch/release``), or
a person does. One bad file is an outcome and holds no other; what was imported before is known by its digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from btf.archive.archive import HOW, NAMED_ONLY, Archive, ArchiveUnwritable, Entry, KernelName
from btf.archive.btf_file import WithoutBtf, file_digest, read_bounded, read_btf_file, read_image_file, release_of_file
from btf.archive.kernel_image import ImageUnreadable
from btf.archive.module import KernelModule, ModuleForeign, is_module, parse_module, read_module
from btf.archive.running import RUNNING_BTF, running_kernel
from btf.fault import EXIT_USAGE, Fault, printable
from btf.format.architecture import architecture
from btf.format.parse import BtfMalformed, parse_btf
from btf.format.types import Btf

_PACKED_BTF = ".btf.tar.xz"
_MODULE = re.compile(r"(?P<name>[\w-]+)\.ko(\.(xz|zst|gz))?\Z")
_IMAGE = re.compile(r"(vmlinu[xz]|Image|bzImage|kernel)([-.].*)?\Z|.*\.efi\Z")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64", "s390x": "s390x",
                  "ppc64le": "ppc64le", "ppc64el": "ppc64le", "riscv64": "riscv64"}  # fmt: skip


class NobodysBtf(Fault):
    """BTF of which nothing says which kernel it is of."""

    code = "COR-BTF-027"
    exit = EXIT_USAGE
    remedy = "Say which with --for KERNEL, or give the kernel's image, which names itself."


class WrongFolder(Fault):
    """A file that says something else than the folder it lies in."""

    code = "COR-BTF-028"
    exit = EXIT_USAGE
    remedy = "Look where the file comes from; give it to a build by hand with --for KERNEL if the folder is wrong."


@dataclass(frozen=True, slots=True)
class Brought:
    """What became of one file: ``added``, ``already`` there, or with a fault ``without`` BTF or ``refused``.

    ``subject`` says in words what the file is of.
    """

    path: Path
    outcome: str
    kernel_id: str = ""
    subject: str = ""
    sha256: str = ""
    types: int = 0
    fault: Fault | None = None


def files_under(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named and those in the folders named that may hold BTF, in order; links are not followed."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for place, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                found = Path(place, name)
                if (_worth(found) or found.parent == RUNNING_BTF.parent) and not found.is_symlink() and found.is_file():
                    yield found


def _worth(path: Path) -> bool:
    name = path.name
    return name.endswith((".btf", _PACKED_BTF)) or bool(_MODULE.fullmatch(name) or _IMAGE.fullmatch(name))


class Importer:
    """Imports files into *archive*, to build *kernel_id* when it is given; with *check*, looks and keeps nothing."""

    def __init__(self, archive: Archive, *, kernel_id: str | None = None, check: bool = False) -> None:
        self._archive, self._kernel_id, self._check = archive, kernel_id, check
        if not check:
            archive.tidy()
        self._entries = {e.kernel_id: e for e in archive.list() if archive.holds(e.sha256)}
        self._packed = {e.packed: e for e in self._entries.values() if e.packed}
        self._unkept: dict[str, Btf] = {}  # with check: the last BTF looked at, for the modules that stand on it

    def bring(self, path: Path) -> Brought:
        """Import one file; what is wrong with it is the outcome's fault. Only ArchiveUnwritable is raised."""
        try:
            return self._bring(path)
        except ArchiveUnwritable:
            raise
        except Fault as fault:
            return Brought(
                path, "without" if isinstance(fault, WithoutBtf) else "refused", self._kernel_id or "", fault=fault
            )

    def _bring(self, path: Path) -> Brought:
        if path.parent == RUNNING_BTF.parent:
            return self._running(path)
        if found := _MODULE.fullmatch(path.name):
            return self._module(path, read_module(read_bounded(path), name=found["name"]))
        packed = file_digest(path)
        before = self._packed.get(packed)
        if before is not None and self._kernel_id in (None, before.kernel_id):
            return Brought(path, "already", before.kernel_id, before.title, before.sha256)
        if path.name.endswith((".btf", _PACKED_BTF)):
            return self._btf(path, packed)
        return self._any(path, packed)

    def _running(self, path: Path) -> Brought:
        """The kernel that runs here, or one of its modules."""
        here = running_kernel()
        data = read_btf_file(RUNNING_BTF)
        kernel_id = here.kernel_id or f"btf-{_digest(data)[:40]}/{here.arch}"
        row = _row(kernel_id, f"host {socket.gethostname()}", "host", KernelName(here.release, here.version, here.arch))
        outcome = self._keep(path, data, row)
        if path == RUNNING_BTF:
            return outcome
        module = KernelModule(path.name, read_bounded(path), here.release)
        return self._module(path, module, kernel_id)

    def _btf(self, path: Path, packed: str) -> Brought:
        data = read_btf_file(path)
        arch = architecture(parse_btf(data)) or ""
        place = _place(path) or KernelName(release_of_file(path) or "", "", arch)
        if arch and place.arch != arch:
            raise WrongFolder(f"{path.name} is of {arch}, and lies in a folder of {place.arch}")
        how = "btfhub" if place.distribution and not self._kernel_id else "file"
        kernel_id = self._kernel_id or _named_only(place, path)
        return self._keep(path, data, _row(kernel_id, f"file {path.name}", how, place, packed))

    def _any(self, path: Path, packed: str) -> Brought:
        """A kernel image; or by its content BTF or a module under another name."""
        try:
            image = read_image_file(path)
        except (ImageUnreadable, BtfMalformed):
            data = read_bounded(path)
            if is_module(data):
                return self._module(path, read_module(data, name=path.stem))
            if data[:2] in (b"\x9f\xeb", b"\xeb\x9f"):
                return self._btf(path, packed)
            raise
        if image.btf is None:
            raise WithoutBtf(f"{path}: {image.why}")
        if self._kernel_id and image.build_id and self._kernel_id != image.kernel_id:
            raise WrongFolder(f"{path.name} is the image of {image.kernel_id}, not of {self._kernel_id}")
        kernel_id = self._kernel_id or (image.kernel_id if image.release or image.build_id else None)
        if kernel_id is None:
            raise NobodysBtf(f"{path.name}: nothing says which kernel this BTF is of")
        name = KernelName(image.release or "", image.version or "", image.arch or "")
        return self._keep(path, image.btf, _row(kernel_id, f"image {path.name}", "image", name, packed))

    def _keep(self, path: Path, data: bytes, row: Entry) -> Brought:
        btf, sha256 = parse_btf(data), _digest(data)
        row = replace(row, sha256=sha256, size=len(data))
        known = self._entries.get(row.kernel_id)
        same = known is not None and known.sha256 == sha256 and HOW[known.how] >= HOW[row.how]
        if self._check:
            self._archive.agree(row)
            self._unkept = {sha256: btf}
        elif not same:
            self._archive.put(
                data, kernel_id=row.kernel_id, source=row.source, how=row.how, name=row.name, packed=row.packed
            )
        if not same:
            self._entries[row.kernel_id] = self._packed[row.packed] = row
        return Brought(path, "already" if same else "added", row.kernel_id, row.title, sha256, len(btf))

    def _module(self, path: Path, module: KernelModule, kernel_id: str | None = None) -> Brought:
        """Keep a module on the one kernel of the archive that it was built with."""
        entry = self._base_of(module, kernel_id or self._kernel_id)
        sha256, title = _digest(module.btf), f"module {module.name} of {entry.title}"
        if any(m.module == module.name and m.sha256 == sha256 for m in self._archive.modules(entry.sha256)):
            return Brought(path, "already", entry.kernel_id, title, sha256)
        base = self._base(entry)
        types = len(parse_module(module, base)) - len(base)
        if not self._check:
            self._archive.put_module(module, base=entry.sha256, source=f"file {path.name}")
        return Brought(path, "added", entry.kernel_id, title, sha256, types)

    def _base_of(self, module: KernelModule, kernel_id: str | None) -> Entry:
        """Return the kernel that *module* says it is of, and stands on."""
        if kernel_id is not None:
            entry = self._entries.get(kernel_id)
            if entry is None:
                raise ModuleForeign(f"{module.name}: the archive has no BTF of kernel {kernel_id} to stand on")
            if module.release and entry.name.release and module.release != entry.name.release:
                raise ModuleForeign(f"{module.name} is of {module.release}, not of {entry.name.release}")
            return entry
        if not module.release:
            raise ModuleForeign(f"{module.name}: says not which kernel it is of", remedy="Say it with --for KERNEL.")
        same = [e for e in self._entries.values() if e.name.release == module.release]
        fitting = {e.sha256: e for e in same if self._stands(module, e)}
        if len(fitting) != 1:
            words = f"{len(fitting)} kernels {module.release} that it fits" if same else f"no kernel {module.release}"
            raise ModuleForeign(f"{module.name}: the archive has {words}", remedy="Import that kernel's image first.")
        return fitting.popitem()[1]

    def _base(self, entry: Entry) -> Btf:
        return self._unkept.get(entry.sha256) or self._archive.btf(entry.sha256)

    def _stands(self, module: KernelModule, entry: Entry) -> bool:
        try:
            parse_module(module, self._base(entry))
        except ModuleForeign:
            return False
        return True


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _row(kernel_id: str, source: str, how: str, name: KernelName, packed: str = "") -> Entry:
    return Entry(kernel_id, "", printable(source, 200), 0, how, name=name, packed=packed)


def _named_only(name: KernelName, path: Path) -> str:
    """Return the id of BTF that is known by a release's name; raise NobodysBtf without one."""
    if not name.release:
        raise NobodysBtf(f"{path.name}: nothing says which kernel this BTF is of")
    whose = f"{name.distribution.replace(' ', '-')}-" if name.distribution else ""
    return f"{NAMED_ONLY}{whose}{name.release}/{name.arch or 'unknown'}"


def _place(path: Path) -> KernelName | None:
    """Return what the folders of a BTF archive say: ``distribution/version/arch/release.btf.tar.xz``."""
    folders = path.absolute().parts[-4:-1]
    if len(folders) < 3 or folders[2] not in _ARCHITECTURES or not path.name.endswith(_PACKED_BTF):
        return None
    release, arch = printable(path.name.removesuffix(_PACKED_BTF)), _ARCHITECTURES[folders[2]]
    return KernelName(release, "", arch, printable(" ".join(folders[:2]), 100))
