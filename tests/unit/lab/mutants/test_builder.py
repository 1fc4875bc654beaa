"""Building modules, on a kernel of two files whose makefile is as short as can be."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.mutants.builder import BuildKit, ModuleBuilder, PatchRefused

RELEASE = "6.99.1-stand-in"
SOURCE = """\
#include <asm/kvm_host.h>
char info[] __attribute__((section(".modinfo"), used)) = "vermagic=" RELEASE " SMP ";
char btf[] __attribute__((section(".BTF"), used)) = "types";
int flags = KVM_RUN_FLAGS;
"""
MAKEFILE = """\
modules:
KBUILD_EXTMOD := $(M)
KVM := $(M)/arch/x86/kvm
include $(M)/Kbuild $(M)/arch/x86/kvm/Makefile
CONFIG_KVM_AMD := m
modules: $(KVM)/kvm.ko $(KVM)/kvm-intel.ko $(if $(CONFIG_KVM_AMD),$(KVM)/kvm-amd.ko)
$(KVM)/%.ko: $(KVM)/%.c
	@echo $* >> compiled
	$(CC) $(NOSTDINC_FLAGS) -Iinclude -c -o $@ $<
"""
PATCH = """\
A fault.

--- a/arch/x86/kvm/kvm-intel.c
+++ b/arch/x86/kvm/kvm-intel.c
@@ -2,3 +2,3 @@
 char info[] __attribute__((section(".modinfo"), used)) = "vermagic=" RELEASE " SMP ";
 char btf[] __attribute__((section(".BTF"), used)) = "types";
-int flags = KVM_RUN_FLAGS;
+int flags = 0x0bad0bad;
"""
BAD = (0x0BAD0BAD).to_bytes(4, "little")


@pytest.fixture
def kit(tmp_path: Path) -> BuildKit:
    """Lay out a kit below tmp_path/kit, as unpacked packages have it."""
    missing = [t for t in ("cc", "make", "patch", "pahole", "strip", "xz") if not shutil.which(t)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    home = tmp_path / "kit"
    files = {
        "headers/Makefile": "include /usr/src/linux-headers-6.99.1-common/Makefile\n",
        "headers/.config": 'CONFIG_CC_VERSION_TEXT="cc (Stand-in) 1.0"\n',
        "headers/Module.symvers": "",
        "headers/compiled": "",
        "headers/vmlinux": "BTF of the kernel",
        "headers/include/generated/utsrelease.h": f'#define UTS_RELEASE "{RELEASE}"\n',
        "headers/include/asm/kvm_host.h": "#error the packaged header, not the source's\n",
        "common/Makefile": MAKEFILE,
        "kbuild/scripts/a": "",
        "kbuild/tools/a": "",
        "linux/arch/x86/kvm/Makefile": "include $(srctree)/virt/kvm/Makefile.kvm\n",
        "linux/arch/x86/kvm/kvm.c": SOURCE.replace("RELEASE", f'"{RELEASE}"'),
        "linux/arch/x86/kvm/kvm-intel.c": SOURCE.replace("RELEASE", f'"{RELEASE}"'),
        "linux/arch/x86/include/asm/kvm_host.h": "#define KVM_RUN_FLAGS 3\n",
        "linux/virt/kvm/Makefile.kvm": "",
        "linux/drivers/unwanted.c": "",
    }
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tar(home)
    return BuildKit(home / "headers", home / "common", home / "kbuild", home / "linux.tar.xz")


def tar(home: Path) -> None:
    command = ["tar", "--create", "--xz", "--file", "linux.tar.xz", "linux"]
    subprocess.run(command, cwd=home, check=True)


@pytest.fixture
def builder(kit: BuildKit, tmp_path: Path) -> ModuleBuilder:
    return ModuleBuilder(kit, Cache(tmp_path / "cache"), lambda _: None)


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "some-fault.patch"
    path.write_text(PATCH.replace("RELEASE", f'"{RELEASE}"'))
    return path


def compiled(kit: BuildKit) -> list[str]:
    """Return the names of what was compiled, in order."""
    return (kit.headers / "compiled").read_text().split()


def test_both_modules_are_built_and_no_other(builder: ModuleBuilder, kit: BuildKit) -> None:
    folder = builder.build()
    assert {path.name for path in folder.iterdir()} == set(builder.modules)
    assert sorted(compiled(kit)) == ["kvm", "kvm-intel"]


def test_headers_that_name_their_own_folder_find_their_configuration_there(
    builder: ModuleBuilder, kit: BuildKit
) -> None:
    """As those of Debian's Linux 7.x do, by the place where the package installs them."""
    makefile = kit.headers / "Makefile"
    makefile.write_text(
        f"KBUILD_OUTPUT=/usr/src/linux-headers-{RELEASE}\n{makefile.read_text()}"
        "ifeq ($(wildcard $(KBUILD_OUTPUT)/.config),)\n$(error no .config)\nendif\n"
    )
    assert {path.name for path in builder.build().iterdir()} == set(builder.modules)


def test_what_was_built_is_not_built_again(builder: ModuleBuilder, kit: BuildKit) -> None:
    said: list[str] = []
    first = builder.build()
    again = ModuleBuilder(kit, builder.cache, said.append).build()
    assert (again, said, len(compiled(kit))) == (first, [], 2)


def test_a_patch_costs_what_it_touches(builder: ModuleBuilder, kit: BuildKit, patch: Path) -> None:
    stock, mutant = builder.build(), builder.build([patch])
    assert compiled(kit)[2:] == ["kvm-intel"]
    assert BAD in (mutant / "kvm-intel.ko").read_bytes()
    assert BAD not in (stock / "kvm-intel.ko").read_bytes()


def test_what_a_patch_leaves_as_it_is_is_not_loaded(builder: ModuleBuilder, patch: Path) -> None:
    assert [path.name for path in builder.build([patch]).iterdir()] == ["kvm-intel.ko"]
    patch.write_text(patch.read_text().replace("kvm/kvm-intel.c", "kvm/kvm.c"))
    assert [path.name for path in builder.build([patch]).iterdir()] == ["kvm.ko"]


def test_a_patch_that_changes_no_module_is_refused(builder: ModuleBuilder, patch: Path) -> None:
    patch.write_text(patch.read_text().replace("= 0x0bad0bad;", "= KVM_RUN_FLAGS; /* so */"))
    with pytest.raises(PatchRefused, match="some-fault changes no module of KVM"):
        builder.build([patch])


def test_a_patch_leaves_nothing_in_the_next_build(builder: ModuleBuilder, patch: Path) -> None:
    builder.build([patch])
    assert BAD not in (builder.build() / "kvm-intel.ko").read_bytes()


def test_what_is_built_from_something_else_is_built_anew(
    builder: ModuleBuilder, kit: BuildKit
) -> None:
    first = builder.build()
    for name in ("headers/.config", "headers/Module.symvers", "headers/vmlinux"):
        path = kit.headers.parent / name
        path.write_text(path.read_text() + "\n# another\n")
        again = ModuleBuilder(kit, builder.cache, lambda _: None).build()
        assert again != first, name
        first = again


def test_the_kernels_btf_may_come_from_elsewhere(
    builder: ModuleBuilder, kit: BuildKit, tmp_path: Path
) -> None:
    (kit.headers / "vmlinux").unlink()
    other = replace(builder, kit=replace(kit, vmlinux=tmp_path / "btf"))
    (tmp_path / "btf").write_text("BTF of the kernel")
    (kit.common / "Makefile").write_text(MAKEFILE.replace("@echo", "@cat vmlinux && echo"))
    assert other.build()


def test_no_trace_of_the_work_is_left(builder: ModuleBuilder, patch: Path) -> None:
    builder.build([patch])
    assert [p for p in (builder.cache.root / "kvm-work").iterdir() if p.is_dir()] == []


def test_variables_of_an_outer_make_do_not_reach_the_build(
    builder: ModuleBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "n")
    monkeypatch.setenv("KBUILD_EXTMOD", "/nowhere")
    assert builder.build()


# What goes wrong


def error_of(act: Callable[[], object]) -> str:
    """Return the error's line."""
    with pytest.raises(EnvironmentUnfit) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_patch_that_does_not_fit_names_the_kernel(
    builder: ModuleBuilder, patch: Path, kit: BuildKit
) -> None:
    patch.write_text(patch.read_text().replace("KVM_RUN_FLAGS", "OTHER"))
    with pytest.raises(PatchRefused, match=rf"^some-fault\.patch does not apply to .*{RELEASE} "):
        builder.build([patch])
    assert len(compiled(kit)) == 2


def test_a_patch_whose_surroundings_changed_does_not_fit(
    builder: ModuleBuilder, patch: Path
) -> None:
    patch.write_text(patch.read_text().replace(" char btf[]", " static char btf[]"))
    with pytest.raises(PatchRefused, match="Hunk #1 FAILED"):
        builder.build([patch])


def test_a_compilation_that_fails_gives_the_compilers_first_complaint(
    builder: ModuleBuilder, patch: Path
) -> None:
    builder.build()
    patch.write_text(patch.read_text().replace("0x0bad0bad;", "undeclared; int x = other;"))
    line = error_of(lambda: builder.build([patch]))
    assert f"building KVM of {RELEASE} failed in make (/" in line
    assert "kvm-intel.c:4:13: error: 'undeclared' undeclared here" in line
    log = Path(line.rpartition("see ")[2])
    assert "'other' undeclared here" in log.read_text()


def test_modules_without_btf_are_refused(builder: ModuleBuilder, patch: Path) -> None:
    text = patch.read_text().replace(" char btf[]", "-char btf[]", 1)
    patch.write_text(text.replace("@@ -2,3 +2,3 @@", "@@ -2,3 +2,2 @@"))
    assert error_of(lambda: builder.build([patch])).startswith(
        f"kvm-intel.ko of {RELEASE} was built without BTF; "
    )


def test_modules_of_another_kernel_are_refused(builder: ModuleBuilder, kit: BuildKit) -> None:
    header = kit.headers / "include/generated/utsrelease.h"
    header.write_text('#define UTS_RELEASE "6.99.2-other"\n')
    line = error_of(builder.build)
    assert line.startswith("kvm.ko was built for another kernel than 6.99.2-other; ")


@pytest.mark.parametrize("tool", ["pahole", "patch"])
def test_a_missing_tool_comes_with_its_package(
    builder: ModuleBuilder, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in {"cc", "make", "tar", "xz", "strip", "pahole", "patch"} - {tool}:
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    package = {"pahole": "dwarves", "patch": "patch"}[tool]
    expected = f"building KVM of {RELEASE} needs {tool}; install it: apt-get install {package}"
    assert error_of(builder.build) == expected


def test_a_folder_without_headers_says_so(kit: BuildKit, tmp_path: Path) -> None:
    line = error_of(lambda: replace(kit, headers=tmp_path).release)
    assert line.startswith(f"{tmp_path} is no folder of kernel headers (")


def test_a_missing_source_says_so(builder: ModuleBuilder, kit: BuildKit) -> None:
    kit.source.unlink()
    line = error_of(builder.build)
    assert line.startswith(f"can't build KVM of {RELEASE}: {kit.source}: No such file")


def test_a_source_that_is_no_tarball_says_so(builder: ModuleBuilder, kit: BuildKit) -> None:
    kit.source.write_text("no tarball")
    assert f"building KVM of {RELEASE} failed in tar (" in error_of(builder.build)


def test_a_cache_that_kbuild_cant_work_in_says_so(builder: ModuleBuilder, tmp_path: Path) -> None:
    elsewhere = replace(builder, cache=Cache(tmp_path / "my cache"))
    assert "set KVMTEST_CACHE" in error_of(elsewhere.build)


def test_an_interrupted_build_ends_all_it_started_and_can_be_done_again(
    builder: ModuleBuilder, kit: BuildKit
) -> None:
    pipe = kit.headers / "pipe"
    os.mkfifo(pipe)
    (kit.common / "Makefile").write_text(MAKEFILE.replace("@echo", "@cat pipe; cat pipe; echo"))

    def interrupt() -> None:
        # Opening a pipe for writing returns when its reader, the recipe, is there.
        with pipe.open("w"):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        builder.build()
    thread.join()
    (log,) = (builder.cache.root / "kvm-work").glob("*.log")
    # Whatever make started, and waits for the pipe, holds the lock until it has ended.
    subprocess.run(["flock", "--timeout", "60", log, "true"], check=True)
    (kit.common / "Makefile").write_text(MAKEFILE)
    assert builder.build()
