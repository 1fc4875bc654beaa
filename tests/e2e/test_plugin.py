"""Plain pytest over the suite decides the same properties, by marker and by option."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.stand_in import environment, need_free_machine

import kvmtest.suite
from kvmtest.evidence import load
from kvmtest.properties import MARKERS, PROPERTIES

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(kvmtest.suite.__file__).parent

# Makes a session one of a stand-in tree, whose properties get VERDICTS in turn.
CONFTEST = """\
from pathlib import Path

import kvmtest.host.tree
import kvmtest.session
from kvmtest.judge import Judgement, Verdict

pytest_plugins = ["kvmtest.plugin"]
VERDICTS = iter({verdicts!r})
tree = kvmtest.host.tree.Tree(Path(__file__).parent / "host")
tree.root.mkdir(exist_ok=True)


def check_of(prop):
    verdict = next(VERDICTS)
    if verdict == "BROKEN":
        return lambda context: (1 / 0 for _ in [0])
    kvmtest.session.judge = lambda readings, absences: Judgement(Verdict(verdict), "because")
    return lambda context: (nothing for nothing in [])


kvmtest.session.Tree = lambda root: tree
kvmtest.session.lacking = lambda machine, prop: []
kvmtest.session.witness_lacks = lambda machine, witness: []
kvmtest.session.check_of = check_of
"""


def pytest_run(
    *words: str | Path, cwd: Path | None = None, status: int | None = None
) -> tuple[str, Counter[str]]:
    """Run pytest; return its output and how many tests there are of each outcome."""
    # As if installed: no word of this checkout's settings.
    own = [] if cwd else ["-c", "/dev/null", f"--rootdir={SUITE}", "-p", "kvmtest.plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *own, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd or SUITE.parents[1],
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        timeout=60,
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    counts = Counter({word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last)})
    return done.stdout + done.stderr, counts


@pytest.mark.parametrize("set_", [{}, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}])
def test_a_checkout_s_suite_has_the_plugin_whether_pytest_loads_plugins_or_not(
    set_: dict[str, str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q",
         "--kvmtest-only=vmx.entry.fresh", "tests/suite"],
        capture_output=True, text=True, cwd=ROOT, env=environment(**set_), timeout=60,
    )  # fmt: skip
    assert re.findall(r"test_property\[(.+)\]", done.stdout) == ["vmx.entry.fresh"], done.stderr


def collected(*words: str) -> list[str]:
    out, _ = pytest_run("--collect-only", "-q", *words, SUITE)
    return re.findall(r"test_property\[(.+)\]", out)


# Choosing


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_selects_exactly_the_properties_that_have_it(marker: str) -> None:
    assert collected("-m", marker) == [p.id for p in PROPERTIES if marker in p.markers]


def test_markers_combine() -> None:
    wanted = [p.id for p in PROPERTIES if "intel" in p.markers and "nested" not in p.markers]
    assert collected("-m", "intel and not nested") == wanted


def test_the_suite_is_all_properties_in_order() -> None:
    assert collected() == [p.id for p in PROPERTIES]


def test_k_selects_by_a_part_of_the_id() -> None:
    wanted = [p.id for p in PROPERTIES if "vmx.entry" in p.id and "nvmx" not in p.id]
    assert collected("-k", "vmx.entry and not nvmx") == wanted


def test_only_selects_by_the_whole_id() -> None:
    wanted = ["vmx.entry.toggled", "any.soak"]
    assert collected("--kvmtest-only", "any.soak", "--kvmtest-only", "vmx.entry.toggled") == wanted


def test_only_refuses_what_is_no_property() -> None:
    out, _ = pytest_run("--kvmtest-only", "vmx.entry.frsh", SUITE, status=2)
    assert "no property vmx.entry.frsh; did you mean vmx.entry.fresh?" in out
    assert "Traceback" not in out


def test_require_refuses_what_is_none() -> None:
    out, _ = pytest_run("--kvmtest-require", "witness:klogs", SUITE, status=2)
    assert "--require witness:klogs: it takes leak" in out
    assert "Traceback" not in out


def test_what_is_required_fails_where_it_is_not_met(tmp_path: Path) -> None:
    suite_in(tmp_path, ["PASS", "SKIP"])
    first, second = (p.id for p in PROPERTIES[:2])
    pytest_run(f"--kvmtest-require={first}", cwd=tmp_path, status=0)
    out, _ = pytest_run(f"--kvmtest-require={second}", cwd=tmp_path, status=1)
    assert f"--kvmtest-require {second} is not met: {second}: SKIP: because" in out
    # What another option leaves out can't be required.
    out, _ = pytest_run(f"--kvmtest-require={second}", "-k", first, cwd=tmp_path, status=2)
    assert f"--require {second}: no property that it concerns is chosen" in out


def test_a_marker_that_is_none_is_refused_in_the_suite_s_files(tmp_path: Path) -> None:
    source = "import pytest\n\n@pytest.mark.intle\ndef test_x(): pass\n"
    (tmp_path / "test_x.py").write_text(source)
    words = ["-p", "kvmtest.plugin", "--strict-markers"]
    out, _ = pytest_run(*words, cwd=tmp_path, status=2)
    assert "'intle' not found in `markers` configuration option" in out
    (tmp_path / "test_x.py").write_text(source.replace("intle", "intel"))
    pytest_run(*words, cwd=tmp_path, status=0)


def test_a_marker_that_is_none_selects_nothing_and_that_is_no_success() -> None:
    pytest_run("-m", "intle", SUITE, status=5)


def test_markers_are_explained() -> None:
    out, _ = pytest_run("--markers")
    assert all(f"@pytest.mark.{name}: {meaning}" in out for name, meaning in MARKERS.items())


# Outcomes

VERDICTS = ["PASS", "FAIL", "SKIP", "INCONCLUSIVE", "MEASURED", "ERROR", "BROKEN"]
OUTCOMES = {"passed": 1, "failed": 3, "skipped": 3}


def suite_in(folder: Path, verdicts: list[str]) -> None:
    """Make a suite whose properties get these verdicts, in turn."""
    (folder / "conftest.py").write_text(CONFTEST.format(verdicts=verdicts))
    source = (SUITE / "test_properties.py").read_text()
    source = source.replace("in PROPERTIES]", f"in PROPERTIES[:{len(verdicts)}]]")
    (folder / "test_properties.py").write_text(source)


def test_verdicts_become_outcomes_with_their_reasons(tmp_path: Path) -> None:
    suite_in(tmp_path, VERDICTS)
    out, counts = pytest_run("-rsf", cwd=tmp_path, status=1)
    assert counts == OUTCOMES
    for verdict in ("SKIP", "INCONCLUSIVE", "MEASURED"):
        assert re.search(rf"^SKIPPED .*: {verdict}: because", out, re.MULTILINE)
    assert "\nFAIL: because\n" in out
    assert "\nERROR: ZeroDivisionError: division by zero\n" in out
    assert "1 / 0" in out, "an error has its traceback"


def test_the_summary_lists_every_verdict(tmp_path: Path) -> None:
    suite_in(tmp_path, VERDICTS)
    out, _ = pytest_run("-q", cwd=tmp_path)
    section = out[out.index(" verdicts ") :]
    for prop, verdict in zip(PROPERTIES, VERDICTS, strict=False):
        said = "ERROR" if verdict == "BROKEN" else verdict
        assert re.search(rf"^{said} +{re.escape(prop.id)}: ", section, re.MULTILINE)


@pytest.mark.parametrize("verdict", ["SKIP", "INCONCLUSIVE"])
def test_require_makes_what_nobody_decided_a_failure(tmp_path: Path, verdict: str) -> None:
    suite_in(tmp_path, [verdict] * 2)
    out, counts = pytest_run("--kvmtest-require", PROPERTIES[0].id, cwd=tmp_path, status=1)
    assert counts == {"failed": 1, "skipped": 1}
    assert f"FAIL: --require {PROPERTIES[0].id}, but {verdict}: because" in out


def test_a_run_without_the_suite_has_no_section_of_verdicts(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_x(): pass\n")
    out, _ = pytest_run("-p", "kvmtest.plugin", cwd=tmp_path, status=0)
    assert "verdicts" not in out


def test_junit_of_pytest_itself_has_the_verdicts(tmp_path: Path) -> None:
    suite_in(tmp_path, ["PASS", "SKIP"])
    pytest_run("--junitxml=x.xml", cwd=tmp_path, status=0)
    text = (tmp_path / "x.xml").read_text()
    assert '<property name="verdict" value="PASS"' in text
    assert '<property name="verdict" value="SKIP"' in text


def test_what_fails_and_is_no_verdict_is_a_problem_of_the_run(tmp_path: Path) -> None:
    suite_in(tmp_path, ["PASS"])
    (tmp_path / "test_x.py").write_text("def test_x(): raise ValueError('of its own')\n")
    out, _ = pytest_run("--kvmtest-output=out", cwd=tmp_path, status=3)
    problem = "test_x.py::test_x: call failed: test_x.py:1: ValueError"
    assert f"\nkvmtest: {problem}" in out
    assert load(tmp_path / "out").kvmtest.problems == [problem]
    last = (tmp_path / "out/ktap.txt").read_text().splitlines()[-2:]
    assert last == [f"# exit status 3: {problem}", "not ok 2 kvmtest.run"]
    suite = ElementTree.parse(tmp_path / "out/junit.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")


def test_what_was_not_run_though_it_is_required_is_a_problem_of_the_run(tmp_path: Path) -> None:
    suite_in(tmp_path, ["ERROR", "PASS"])
    second = PROPERTIES[1].id
    out, _ = pytest_run(f"--kvmtest-require={second}", "-x", cwd=tmp_path, status=3)
    assert f"kvmtest: --require {second}: {second} was not run" in out


# This machine


def test_the_suite_runs_on_this_machine(tmp_path: Path) -> None:
    need_free_machine()
    words = ["--kvmtest-only", "kernel.fix-present", "--kvmtest-allow-other-vms"]
    out, counts = pytest_run(*words, "-rs", SUITE)
    assert counts.total() == 1 + len(PROPERTIES) - 1
    assert re.search(r"^(PASS|FAIL|SKIP|INCONCLUSIVE) +kernel.fix-present: ", out, re.MULTILINE)
