"""lab/image/libraries.py: what a run imports, as it is installed here."""

import importlib.metadata

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.image import libraries


def test_what_a_run_imports_is_there_and_what_only_pytest_imports_is_not() -> None:
    names = set(libraries.files())
    assert {"rich/console.py", "elftools/__init__.py", "fastjsonschema/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("kvmtest/", "pytest/", "pluggy/"))]


def test_a_kvmtest_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    with pytest.raises(
        EnvironmentUnfit, match=r"^kvmtest is not installed as a package.*; install"
    ):
        libraries.files()


def test_a_library_that_does_not_list_its_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(EnvironmentUnfit, match="has no list of its files; install kvmtest"):
        libraries.files()
