"""Makes the files that a kernel comes in: ELF files, bzImages, modules, packages and source."""

import io
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

RELEASE = "6.12.7+test-amd64"
BANNER = f"{RELEASE} (kernel@example.org) #1 SMP Debian 6.12.7-1 (2026-01-02)"
START = 0x1000000


def xz(data: bytes) -> bytes:
    """Compress as the kernel's build does."""
    return lzma.compress(data, check=lzma.CHECK_CRC32)


class Segment(NamedTuple):
    address: int
    data: bytes
    size: int


def elf(
    sections: Mapping[str, bytes] | None = None,
    segments: Sequence[Segment] = (),
    *,
    entry: int = 0,
    machine: int = 62,
    kind: int = 2,
) -> bytes:
    """An ELF64 file: header, program headers, contents, section headers."""
    names = b"\0"
    offsets = {}
    for name in (*(sections or {}), ".shstrtab"):
        offsets[name] = len(names)
        names += name.encode() + b"\0"
    contents = {**(sections or {}), ".shstrtab": names}
    at = 64 + 56 * len(segments)
    programs, body, headers = b"", b"", bytes(64)
    for address, data, size in segments:
        programs += struct.pack(
            "<IIQQQQQQ", 1, 7, at + len(body), address, address, len(data), size, 0x1000
        )
        body += data
    for name, data in contents.items():
        headers += struct.pack(
            "<IIQQQQIIQQ", offsets[name], 3 if name == ".shstrtab" else 1, 0, 0,
            at + len(body), len(data), 0, 0, 1, 0,
        )  # fmt: skip
        body += data
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, entry, 64, at + len(body), 0, 64, 56, len(segments), 64,
        len(contents) + 1, len(contents),
    )  # fmt: skip
    return header + programs + body + headers


def vmlinux(
    code: bytes = b"\xf4", *, bss: int = 0x3000, start: int = START, types: bytes = b"types"
) -> bytes:
    """A kernel that is ``code`` at ``start``, with data behind a gap and zeroes behind that."""
    text, data = Segment(start, code, 0x1000), Segment(start + 0x4000, b"data", 4 + bss)
    return elf({".BTF": types} if types else {}, [text, data], entry=start)


def bzimage(
    kernel: bytes,
    compress: Callable[[bytes], bytes] = xz,
    *,
    banner: str = BANNER,
    size_appended: bool = True,
    preferred: int = START,
    init_size: int = 0x800000,
) -> bytes:
    """A bzImage with ``kernel`` as its payload."""
    payload = compress(kernel)
    if size_appended:
        payload += len(kernel).to_bytes(4, "little")
    sectors, version_at = 4, 0x600
    setup = bytearray((sectors + 1) * 512)
    setup[:2] = b"MZ"
    for offset, form, value in (
        (0x1F1, "<B", sectors),
        (0x1FE, "<H", 0xAA55),
        (0x202, "<I", 0x53726448),
        (0x206, "<H", 0x20F),
        (0x20E, "<H", version_at - 0x200),
        (0x211, "<B", 1),
        (0x214, "<I", 0x100000),
        (0x234, "<B", 1),
        (0x236, "<H", 0x7F),
        (0x248, "<I", 0x20),
        (0x24C, "<I", len(payload)),
        (0x258, "<Q", preferred),
        (0x260, "<I", init_size),
    ):
        struct.pack_into(form, setup, offset, value)
    text = banner.encode() + b"\0"
    setup[version_at : version_at + len(text)] = text
    return bytes(setup) + bytes(0x20) + payload + bytes(0x40)


def module(
    name: str,
    *depends: str,
    release: str = RELEASE,
    body: bytes = b"",
    sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """A module that says which kernel it is for and what it depends on."""
    entries = [
        f"name={name}", f"depends={','.join(depends)}", f"vermagic={release} SMP mod_unload "
    ]  # fmt: skip
    modinfo = b"".join(entry.encode() + b"\0" for entry in entries)
    return elf({".modinfo": modinfo, ".text": body, **(sections or {})}, kind=1)


def kvm_modules(release: str = RELEASE) -> dict[str, bytes]:
    """What the lab needs, by path below the folder of the release."""
    return {
        "kernel/arch/x86/kernel/msr.ko": module("msr", release=release),
        "kernel/arch/x86/kvm/kvm-intel.ko": module("kvm_intel", "kvm", release=release),
        "kernel/arch/x86/kvm/kvm.ko": module("kvm", "irqbypass", release=release),
        "kernel/virt/lib/irqbypass.ko": module("irqbypass", release=release),
    }


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write ``files`` below ``root``."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    """Return the regular files below ``root``: what ``write_tree`` writes."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def tree_files(
    release: str = RELEASE,
    *,
    modules: str = "lib/modules",
    pack: Callable[[bytes], bytes] = bytes,
    suffix: str = "",
) -> dict[str, bytes]:
    """The files of a classic linux-image package."""
    banner = BANNER.replace(RELEASE, release)
    files = {f"boot/vmlinuz-{release}": bzimage(vmlinux(), banner=banner)}
    for name, data in kvm_modules(release).items():
        files[f"{modules}/{release}/{name}{suffix}"] = pack(data)
    files[f"{modules}/{release}/modules.builtin"] = b"kernel/fs/ext4/ext4.ko\n"
    return files


def deb(
    path: Path,
    files: Mapping[str, bytes],
    *,
    package: str = f"linux-image-{RELEASE}",
    version: str = "6.12.7-1",
    architecture: str = "amd64",
    depends: str = "",
    pack: Callable[[bytes], bytes] = lzma.compress,
    suffix: str = ".xz",
) -> Path:
    """Write a Debian package (deb(5)) of ``files``."""
    fields = {
        "Package": package, "Version": version, "Architecture": architecture, "Depends": depends,
    }  # fmt: skip
    control = "".join(f"{name}: {value}\n" for name, value in fields.items() if value).encode()
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar{suffix}": pack(_tar({"control": control})),
        f"data.tar{suffix}": pack(_tar(files)),
    }
    archive = b"!<arch>\n"
    for name, data in members.items():
        archive += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o644, len(data))
        archive += data + b"\n" * (len(data) % 2)
    path.write_bytes(archive)
    return path


_RPM_TAGS = {
    "name": 1000, "version": 1001, "release": 1002, "arch": 1022, "sourcerpm": 1044,
    "compressor": 1125,
}  # fmt: skip
_REQUIRENAME = 1049


def rpm(
    path: Path,
    files: Mapping[str, bytes],
    *,
    name: str = "kernel-core",
    version: str = "6.12.7",
    release: str = "200.fc41",
    architecture: str = "x86_64",
    source: str = "kernel-6.12.7-200.fc41.src.rpm",
    requires: Sequence[str] = (),
    pack: Callable[[bytes], bytes] = lzma.compress,
    compressor: str = "xz",
) -> Path:
    """Write an RPM package of ``files`` (rpm.org, "RPM V4 Package format")."""
    values = {
        "name": name, "version": version, "release": release, "arch": architecture,
        "sourcerpm": source, "compressor": compressor,
    }  # fmt: skip
    entries = [(_RPM_TAGS[tag], 6, [value.encode()]) for tag, value in values.items() if value]
    if requires:
        entries.append((_REQUIRENAME, 8, [each.encode() for each in requires]))
    lead = struct.pack(
        ">4sBBHH66sHH16s", b"\xed\xab\xee\xdb", 3, 0, 0, 1, name.encode()[:65], 1, 5, b""
    )
    signature = _rpm_header([(1000, 4, [])])
    path.write_bytes(
        lead + signature + bytes(-len(signature) % 8) + _rpm_header(entries) + pack(cpio(files))
    )
    return path


def _rpm_header(entries: Sequence[tuple[int, int, list[bytes]]]) -> bytes:
    index, store = b"", b""
    for tag, kind, values in entries:
        index += struct.pack(">IIII", tag, kind, len(store), len(values) or 1)
        store += b"".join(value + b"\0" for value in values) or bytes(4)
    return b"\x8e\xad\xe8\x01" + struct.pack(">4xII", len(entries), len(store)) + index + store


def cpio(files: Mapping[str, bytes], mode: int = 0o100644) -> bytes:
    """A cpio archive in the format "newc"."""
    archive = b""
    for name, data in {**{f"./{name}": data for name, data in files.items()},
                       "TRAILER!!!": b""}.items():  # fmt: skip
        text = name.encode() + b"\0"
        fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0]
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + text
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return archive


def source_files(version: str = "6.12.7") -> dict[str, bytes]:
    """A few files of a kernel's source, in the order in which archives have them."""
    numbers = version.split(".")
    names = ("VERSION", "PATCHLEVEL", "SUBLEVEL")
    makefile = "".join(f"{n} = {v}\n" for n, v in zip(names, numbers, strict=True))
    return {
        "Makefile": f"# SPDX\n{makefile}EXTRAVERSION =\nNAME = Test\n".encode(),
        "arch/x86/Makefile": b"",
        "arch/x86/include/uapi/asm/kvm.h": b"/* quirks */",
        "arch/x86/kvm/vmx/vmx.c": b"int vmx;",
        "arch/x86/kvm/x86.c": b"int x86;",
        "virt/kvm/kvm_main.c": b"int kvm;",
    }


def tar(path: Path, files: Mapping[str, bytes], pack: Callable[[bytes], bytes] = bytes) -> Path:
    """Write a tar archive of ``files``."""
    path.write_bytes(pack(_tar(files)))
    return path


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
