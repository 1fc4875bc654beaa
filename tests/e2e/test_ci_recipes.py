"""The recipes of docs/ci, and the project's own, stand before the linters of what reads them.

The linters are those of the extra "recipes" and systemd-analyze. Where one is missing its tests are
skipped; with KVMTEST_RECIPE_TESTS=all in the environment they fail.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.stand_in import FIXED, UNFIXED, environment, intel_host, need_root

from kvmtest.checks.demands import requirement
from kvmtest.evidence import load

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "ci"
SCRIPT = RECIPES / "kvmtest-ci.sh"
BIN = Path(sys.executable).parent
PYPI = "pip install 'kvmtest[recipes]'"

Done = subprocess.CompletedProcess[str]


def tool(name: str, install: str) -> str:
    """Return the path of a linter."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if found:
        return found
    reason = f"needs {name}: {install}"
    if os.environ.get("KVMTEST_RECIPE_TESTS") == "all":
        pytest.fail(reason)
    pytest.skip(reason)


def ended(*words: object, **about: Any) -> Done:
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=120, **about
    )


def broken(path: Path, folder: Path, old: str, new: str) -> Path:
    """Return a copy of a recipe with a mistake in it."""
    text = path.read_text()
    assert old in text
    copy = folder / path.name
    copy.write_text(text.replace(old, new))
    return copy


# GitHub: actionlint


def actionlint(path: Path) -> Done:
    labels = RECIPES / "actionlint.yaml"
    return ended(tool("actionlint", PYPI), "-no-color", "-config-file", labels, path)


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", "docs/ci/github.yml"])
def test_workflows_of_github_pass_actionlint(path: str) -> None:
    done = actionlint(ROOT / path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("timeout-minutes", "timeout-minuets", "unexpected key"),
        ("bare-metal,", "bear-metal,", 'label "bear-metal" is unknown'),
        ("matrix.require", "matrix.requires", 'property "requires" is not defined'),
    ],
)
def test_actionlint_sees_a_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    done = actionlint(broken(RECIPES / "github.yml", tmp_path, old, new))
    assert done.returncode == 1
    assert said in done.stdout


# GitLab: its own schema, which check-jsonschema ships


def schema_check(path: Path) -> Done:
    schema = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    return ended(tool("check-jsonschema", PYPI), *schema, path)


@pytest.mark.parametrize("path", [".gitlab-ci.yml", "docs/ci/gitlab-ci.yml"])
def test_pipelines_of_gitlab_fit_its_schema(path: str) -> None:
    done = schema_check(ROOT / path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new"), [("  expire_in:", "  expires_in:"), ("when: always", "when: allways")]
)
def test_the_schema_sees_a_mistake(tmp_path: Path, old: str, new: str) -> None:
    done = schema_check(broken(RECIPES / "gitlab-ci.yml", tmp_path, old, new))
    assert done.returncode == 1


# systemd


def verified(*units: Path) -> Done:
    analyze = tool("systemd-analyze", "apt-get install systemd")
    return ended(analyze, "verify", "--man=no", "--recursive-errors=no", *units)


UNITS = [RECIPES / "kvmtest-nightly.service", RECIPES / "kvmtest-nightly.timer"]


def test_the_nightly_units_are_verified() -> None:
    done = verified(*UNITS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "old", "new"),
    [
        (0, "AssertPathExists", "AssertPathExits"),
        (0, "ExecStart=/bin/sh", "ExecStart=/nowhere/sh"),
        (1, "OnCalendar=*-*-* 02:17", "OnCalendar=*-*-* 25:17"),
    ],
)
def test_systemd_sees_a_mistake(tmp_path: Path, unit: int, old: str, new: str) -> None:
    for path in UNITS:
        shutil.copy(path, tmp_path)
    path = broken(UNITS[unit], tmp_path, old, new)
    done = verified(path)
    assert path.name in done.stderr


# The project's own


def commands(recipe: object) -> Iterator[str]:
    """Give the texts in a file of YAML."""
    if isinstance(recipe, str):
        yield recipe
    elif isinstance(recipe, dict | list):
        for each in recipe.values() if isinstance(recipe, dict) else recipe:
            yield from commands(each)


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".gitlab-ci.yml"])
def test_the_projects_own_ci_runs_what_every_ci_runs(path: str) -> None:
    assert "bash .ci/run" in commands(yaml.safe_load((ROOT / path).read_text()))
    assert (ROOT / ".ci" / "run").is_file()


# What the recipes run


@pytest.mark.parametrize("name", ["github.yml", "gitlab-ci.yml", "recipes.md"])
def test_what_a_recipe_requires_is_there_to_be_required(name: str) -> None:
    required = re.findall(r"--require ([\w:.-]+)", (RECIPES / name).read_text())
    assert len(required) > 3
    for text in required:
        requirement(text)


def test_recipes_name_the_script_that_is_there() -> None:
    for name in ("github.yml", "gitlab-ci.yml", "kvmtest-nightly.service"):
        assert SCRIPT.name in (RECIPES / name).read_text()
    assert os.access(SCRIPT, os.X_OK)


class Night:
    """Nights of one machine, as the script sees them."""

    def __init__(self, folder: Path) -> None:
        self.kept = folder / "kept"
        self._folder = folder
        self._nights = 0
        self.results = folder

    def passes(self, btf: bytes, *words: str) -> Done:
        """Let a night pass in which the machine runs a kernel of this BTF."""
        self._nights += 1
        tree = intel_host(self._folder / f"host{self._nights}", btf=btf)
        self.results = self._folder / f"results{self._nights}"
        more = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "KVMTEST_KEPT": str(self.kept)}
        only = ("--only", "kernel.fix-present", "--root", str(tree.root))
        return ended("sh", SCRIPT, self.results, *only, *words, env=environment(**more))

    @property
    def last_good(self) -> str:
        return (self.kept / "last-good" / "evidence.json").read_text()


@pytest.fixture
def night(tmp_path: Path) -> Night:
    need_root()
    pytest.importorskip("jinja2")
    return Night(tmp_path)


def test_a_good_night_is_kept_and_reported(night: Night) -> None:
    done = night.passes(FIXED)
    assert done.returncode == 0, done.stderr
    assert "There is no last good run" in done.stdout
    assert night.last_good == (night.results / "evidence.json").read_text()
    assert {path.name for path in night.results.iterdir()} == {
        "evidence.json", "kernel.log", "ktap.txt", "junit.xml",
        "page.html", "summary.md", "comparison.txt",
    }  # fmt: skip
    assert (night.results / "summary.md").read_text().startswith("### PASS: ")


def test_a_regression_is_told_and_the_last_good_run_stays(night: Night) -> None:
    night.passes(FIXED)
    good = night.last_good
    done = night.passes(UNFIXED)
    assert done.returncode == 1
    assert "REGRESSION: 1 property" in done.stdout
    assert night.last_good == good
    # The next night is compared with the good one, not with this.
    assert night.passes(UNFIXED).returncode == 1
    assert "REGRESSION: 1 property" in (night.results / "comparison.txt").read_text()
    assert night.passes(FIXED).returncode == 0
    assert night.last_good != good
    assert [path.name for path in night.kept.iterdir()] == ["last-good"]


def test_a_regression_is_red_although_the_run_passed(night: Night) -> None:
    assert night.passes(FIXED, "--only", "any.soak").returncode == 0
    kept = night.kept / "last-good" / "evidence.json"
    data = json.loads(kept.read_text())
    (soak,) = (each for each in data["results"] if each["id"] == "any.soak")
    assert soak["verdict"] == "SKIP"
    soak["verdict"] = "PASS"
    kept.write_text(json.dumps(data))
    good = night.last_good
    done = night.passes(FIXED, "--only", "any.soak")
    assert load(night.results).exit_status == 0
    assert done.returncode == 1
    assert "REGRESSION: 1 property" in done.stdout
    assert night.last_good == good


def test_a_night_that_decides_nothing_is_no_good_one(night: Night) -> None:
    assert night.passes(b"junk").returncode == 4
    assert not night.kept.exists()
    night.passes(FIXED)
    good = night.last_good
    assert night.passes(b"junk").returncode == 4
    assert night.last_good == good


def test_a_last_good_run_that_can_not_be_read_is_replaced(night: Night) -> None:
    night.passes(FIXED)
    (night.kept / "last-good" / "evidence.json").write_text("{")
    done = night.passes(FIXED)
    assert done.returncode == 0
    assert "not JSON, or cut short" in done.stdout
    assert night.last_good == (night.results / "evidence.json").read_text()


def test_a_run_that_leaves_no_evidence_keeps_its_status(night: Night) -> None:
    done = night.passes(FIXED, "--only", "no.such")
    assert done.returncode == 2
    assert not night.kept.exists()
    assert "no.such" in done.stderr


def test_what_an_earlier_run_left_is_not_told_as_this_one_s(night: Night, tmp_path: Path) -> None:
    folder = tmp_path / "results1"
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "recorded" / "intel-lab.json", folder / "evidence.json")
    done = night.passes(FIXED)
    assert done.returncode == 2
    assert "it holds another run's files" in done.stderr
    assert [path.name for path in night.results.iterdir()] == ["evidence.json"]
    assert not night.kept.exists()


# The page on other labs


def test_every_property_gets_to_lava_under_its_name(tmp_path: Path) -> None:
    page = (RECIPES / "other-labs.md").read_text()
    (snippet,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    handed = tmp_path / "lava-test-case"
    handed.write_text('#!/bin/sh\necho "$@"\n')
    handed.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
    told: dict[str, str] = {}
    for name in ("intel-lab-strict", "intel-lab-nested", "stand-in-nothing-decided"):
        run = ROOT / "tests" / "recorded" / f"{name}.json"
        script = snippet.replace("report out", f"report {run}")
        done = ended("sh", "-c", script, env=environment(PATH=path))
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split(" --result ") for line in done.stdout.splitlines()]
        results = load(run).results
        assert [test for test, _ in lines][: len(results)] == [r.id for r in results]
        told |= {f"{name} {test}": result for test, result in lines}
    assert told["intel-lab-strict vmx.entry.after-emulation"] == "fail"
    assert told["intel-lab-nested vmx.entry.after-emulation"] == "skip"
    assert told["intel-lab-nested vmx.entry.fresh"] == "pass"
    assert told["intel-lab-nested tdx.flag-never"] == "skip"
    assert told["stand-in-nothing-decided kvmtest.run"] == "fail"
