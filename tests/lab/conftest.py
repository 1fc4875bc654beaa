"""The lab's tests boot a stock kernel for real; what they make stays in the user's cache.

Where the lab can't start they are skipped; with KVMTEST_LAB_TESTS=required in the environment they
fail. So they do with KVMTEST_LAB_TESTS=all, which also runs those that boot further kernels.
"""

import functools
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from kvmtest.cache import Cache
from kvmtest.errors import KvmtestError
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.bochs.build import Builder
from kvmtest.lab.emulators.bochs.find import find
from kvmtest.lab.emulators.emulator import Emulator
from kvmtest.lab.mutants import kit
from kvmtest.lab.mutants.builder import ModuleBuilder
from kvmtest.lab.saved_machine import SavedMachine
from kvmtest.lab.target import LabTarget

WANTED = os.environ.get("KVMTEST_LAB_TESTS")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_wanted = WANTED == "all" or (WANTED == "required" and not item.get_closest_marker("skipif"))
    if report.skipped and is_wanted:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome, report.longrepr = "failed", f"required, but {why}"
    return report


@pytest.fixture(scope="session")
def bochs() -> Emulator:
    """The lab's own, or the distribution's where that can't be built."""
    try:
        return find(Builder(Cache.default(), print))
    except KvmtestError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kernel(bochs: Emulator) -> BootableKernel:
    """The default: the newest 6.12 of this host's Debian release."""
    try:
        return resolve(None, None, Cache.default(), print)
    except KvmtestError as error:
        pytest.skip(f"needs a kernel of Debian's archive: {error}")


@pytest.fixture(scope="session")
def lab(bochs: Emulator, kernel: BootableKernel) -> LabTarget:
    return LabTarget(SavedMachine(bochs, kernel, Cache.default(), print, print))


@pytest.fixture(scope="session")
def built(kernel: BootableKernel) -> Callable[..., Path]:
    """Builds the default kernel's modules of KVM with patches, and returns their folder."""
    cache = Cache.default()

    @functools.cache
    def builder() -> ModuleBuilder:
        return ModuleBuilder(kit.fetch(kernel, cache, print), cache, print)

    def build(*patches: Path) -> Path:
        try:
            return builder().build(patches)
        except KvmtestError as error:
            pytest.skip(f"can't build KVM: {error}")

    return build
