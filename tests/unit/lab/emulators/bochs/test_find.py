"""lab/emulators/bochs/find.py: the lab's own build, or the distribution's, or what to mend."""

from pathlib import Path

import pytest
from support.emulator_source import Source, needs_tools

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs import configuration, selftest
from kvmtest.lab.emulators.bochs.build import Cancelled
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.emulators.bochs.find import find
from kvmtest.lab.emulators.bochs.selftest import judge
from kvmtest.lab.emulators.bochs.source import VARIABLE
from kvmtest.lab.emulators.bochs.stock import StockBochs

pytestmark = needs_tools

Patch = pytest.MonkeyPatch


@pytest.fixture
def source(tmp_path: Path, monkeypatch: Patch) -> Source:
    made = Source.install(tmp_path, monkeypatch)
    made.name_it(monkeypatch)
    # Whatever this machine has: the distribution's is the stand-in below, or none.
    for name in ("BIOS", "VGA_BIOS"):
        monkeypatch.setattr(configuration, name, tmp_path / name)
    return made


@pytest.fixture
def distribution(source: Source, monkeypatch: Patch) -> None:
    """Install the distribution's emulator."""
    for name in ("BIOS", "VGA_BIOS"):
        source.write(name, "")
    program = source.write("bin/bochs-bin", "#!/bin/sh\necho 'Bochs x86 Emulator 3.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


@pytest.mark.usefixtures("distribution")
def test_the_labs_own_is_taken_where_it_can_be_built(source: Source) -> None:
    builder = source.builder()
    found = find(builder)
    assert isinstance(found, BuiltBochs)
    assert found.build == builder.build(source.archive())
    assert "checks passed" in found.proof
    assert find(builder) == found


@pytest.mark.usefixtures("distribution")
def test_where_the_source_is_missing_the_distributions_says_why_it_is_used(
    source: Source, monkeypatch: Patch
) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere")
    found = find(source.builder())
    assert isinstance(found, StockBochs)
    assert found.why.startswith(
        f"the lab's own is not used: {VARIABLE}: can't read /nowhere: No such file"
    )


@pytest.mark.usefixtures("distribution")
def test_where_it_can_not_be_built_the_distributions_says_why_it_is_used(source: Source) -> None:
    source.write("parts/bochs.patch", "")
    (source.root / "parts/counted.cc").write_text("#error\n")
    found = find(source.builder())
    assert isinstance(found, StockBochs)
    assert "instrument/kvmtest/counted.cc:1:2: error: #error said so" in found.why
    assert "\n" not in found.why


@pytest.mark.usefixtures("distribution")
def test_a_build_that_fails_its_self_test_is_not_used(source: Source, monkeypatch: Patch) -> None:
    monkeypatch.setattr(selftest, "run", lambda _: judge(1, ["garbage\n"]))
    for _ in range(2):
        found = find(source.builder())
        assert isinstance(found, StockBochs)
        assert "the lab's own is not used: the emulator's self-test failed: " in found.why


@pytest.mark.usefixtures("distribution")
def test_a_line_says_that_the_distributions_is_used(source: Source, monkeypatch: Patch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere")
    found = find(source.builder())
    assert isinstance(found, StockBochs)
    assert len([step for step in source.steps if found.why in step]) == 1


def test_where_there_is_neither_what_keeps_the_labs_own_from_being_built_is_told(
    source: Source, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(EnvironmentUnfit) as caught:
        find(source.builder())
    assert str(caught.value) == (
        "the lab has no emulator: there is no C++ compiler (/nowhere/c++); " + install("g++")
    )


@pytest.mark.usefixtures("distribution")
def test_a_search_that_is_cancelled_finds_nothing_else(source: Source) -> None:
    builder = source.builder()
    builder.cancel()
    with pytest.raises(Cancelled):
        find(builder)
