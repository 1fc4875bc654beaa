"""lab/emulators/search.py: it goes on meanwhile, and nothing of it goes on afterwards."""

import contextlib
import threading
from pathlib import Path

import pytest
from support.emulator_source import Hanging, Source, needs_tools

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs.build import Builder
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.emulators.bochs.find import find
from kvmtest.lab.emulators.emulator import Emulator
from kvmtest.lab.emulators.search import Search


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source.install(tmp_path, monkeypatch)
    made.name_it(monkeypatch)
    return made


@needs_tools
def test_what_is_found_is_the_result_and_its_steps_are_told(source: Source) -> None:
    with Search(find, source.cache, source.steps.append) as search:
        found = search.result()
    assert isinstance(found, BuiltBochs)
    assert found == find(source.builder())
    assert source.steps[0] == "building the emulator, once"


@needs_tools
@pytest.mark.parametrize("error", [EnvironmentUnfit("no such kernel"), KeyboardInterrupt()])
def test_who_leaves_early_ends_the_build_and_waits_for_its_end(
    source: Source, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    hanging = Hanging(source, "main.cc")
    source.name_it(monkeypatch)
    threads = threading.active_count()
    with (
        contextlib.suppress(type(error)),
        Search(find, source.cache, source.steps.append),
    ):
        assert hanging.has_begun()
        raise error
    assert threading.active_count() == threads
    assert hanging.has_ended()
    assert source.kept() == []


def test_it_goes_on_while_the_caller_does_something_else(tmp_path: Path) -> None:
    looked, prepared = threading.Event(), threading.Event()

    def find_later(_: Builder) -> Emulator:
        looked.set()
        assert prepared.wait(60)
        raise EnvironmentUnfit("none")

    with Search(find_later, Cache(tmp_path), print) as search:
        assert looked.wait(60)
        prepared.set()
        with pytest.raises(EnvironmentUnfit, match="none"):
            search.result()


def test_where_there_is_none_the_reason_is_raised_for_who_asks(tmp_path: Path) -> None:
    def find_none(_: Builder) -> Emulator:
        raise EnvironmentUnfit("the lab has no emulator: why")

    with (
        Search(find_none, Cache(tmp_path), print) as search,
        pytest.raises(EnvironmentUnfit, match=r"^the lab has no emulator: why$"),
    ):
        search.result()
