"""A backport, from before to after: its two runs, and what people make of them.

The kernel before is the stock 6.12 with the fix reverted, the kernel after is the stock one. What
each command says of the two is read by a parser that is not kvmtest's own.
"""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from support.html_pages import assert_alone, page_of, text_of
from support.lab_programs import compiled, ended_inside
from support.module_history import commit, files_of, git
from support.stand_in import Ended, command, run_kvmtest

from kvmtest.evidence import load
from kvmtest.judge import Verdict
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.lab.mutants import find
from kvmtest.lab.target import LabTarget

#: What the backport mends, and what holds without it.
MENDED = ("kernel.fix-present", "vmx.entry.fresh", "vmx.entry.toggled", "vmx.leak.host-events")
UNTOUCHED = "host.knob-effective"


@dataclass(frozen=True)
class Story:
    """The folders of the runs before and after, and of KVM's modules before and after."""

    before: Path
    after: Path
    reverted: Path
    fixed: Path


@pytest.fixture(scope="module")
def story(
    lab: LabTarget, built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Story:
    """Both runs, by the command, of the properties that the story is about."""
    if not lab.machine.emulator.details.get("pmu"):
        pytest.skip("the distribution's emulator has no counters")
    reverted, fixed = built(find("fix-reverted").patch), built()
    folder = tmp_path_factory.mktemp("backport")
    only = [f"--only={name}" for name in (*MENDED, UNTOUCHED)]
    before, after = folder / "before", folder / "after"
    ended = run_kvmtest("lab", "run", "--modules", reverted, "-o", before, *only, timeout=1500)
    assert ended.status == 1, ended.err
    ended = run_kvmtest("lab", "run", "-o", after, *only, timeout=1500)
    assert ended.status == 0, ended.err
    return Story(before, after, reverted, fixed)


def as_json(ended: Ended) -> dict[str, Any]:
    data = json.loads(ended.out)
    assert isinstance(data, dict)
    return data


def test_the_comparison_says_what_the_backport_mended(story: Story) -> None:
    expected = [f"--expect=pass:{name}" for name in MENDED]
    ended = run_kvmtest("compare", story.before, story.after, "--json", *expected)
    assert ended.status == 0
    data = as_json(ended)
    (pair,) = data["runs"]
    words = {each["id"]: each["change"] for each in pair["properties"]}
    assert words == {**dict.fromkeys(MENDED, "fixed"), UNTOUCHED: "same"}
    assert all(each["met"] for each in data["expected"])


def test_each_witness_that_looked_both_times_turned(story: Story) -> None:
    (pair,) = as_json(run_kvmtest("compare", story.before, story.after, "--json"))["runs"]
    turned = {}
    for each in pair["properties"]:
        before, after = (
            {w["witness"]: w["held"] / w["claims"] for w in each[side]["witnesses"] if w["claims"]}
            for side in ("old", "new")
        )
        turned[each["id"]] = {name for name in before if before[name] < 1 == after[name]}
    assert turned["kernel.fix-present"] == {"btf"}
    assert turned["vmx.entry.fresh"] >= {"vmcs", "leak"}
    assert turned["vmx.leak.host-events"] == {"leak"}
    leak = per_smi(pair, "vmx.leak.host-events")
    for off, on in leak["old"]:
        # Without the fix a guest's SMIs are counted whatever the knob says.
        assert on["mean"] == pytest.approx(off["mean"], rel=0.01)
    for off, on in leak["new"]:
        assert abs(on["mean"]) + on["half"] < 0.01 * off["mean"]


def per_smi(pair: Any, name: str) -> dict[str, list[tuple[Any, Any]]]:
    """Return what decided counters counted per SMI, with the freeze off and on, in both runs."""
    (compared,) = (each for each in pair["properties"] if each["id"] == name)
    counted = {
        side: [
            (count["freeze_off"], count["freeze_on"])
            for witness in compared[side]["witnesses"]
            for count in witness["per_smi"]
            if count["holds"] is not None
        ]
        for side in ("old", "new")
    }
    assert all(counted.values())
    return counted


def test_the_way_back_is_a_regression(story: Story) -> None:
    ended = run_kvmtest("compare", story.after, story.before, "--json")
    assert ended.status == 1
    (pair,) = as_json(ended)["runs"]
    assert pair["counts"]["regression"] == len(MENDED)
    reverted = [f"--expect=fail:{name}" for name in MENDED]
    assert run_kvmtest("compare", story.after, story.before, *reverted).status == 0


def test_git_bisect_finds_the_commit_that_reverts_the_fix(story: Story, tmp_path: Path) -> None:
    fixed, reverted = map(files_of, (story.fixed, story.reverted))
    git(tmp_path, "init", "--quiet")
    for subject, files in (
        ("the fix", fixed), ("a note", None), ("no fix", reverted), ("another note", None)
    ):  # fmt: skip
        commit(tmp_path, subject, files)
    run = command("lab", "run", "--modules", "modules", "--only", "vmx.entry.toggled", "--bisect")
    git(tmp_path, "bisect", "start", "HEAD", "HEAD~3")
    git(tmp_path, "bisect", "run", "sh", "-c", f"{shlex.join(run)} > /dev/null 2>&1")
    assert git(tmp_path, "log", "-1", "--format=%s", "refs/bisect/bad").strip() == "no fix"
    assert "# first bad commit: [" in git(tmp_path, "bisect", "log")


def test_a_c_program_shows_it_without_kvmtest(story: Story, lab: LabTarget, tmp_path: Path) -> None:
    name = "vmx.entry.toggled"
    assert run_kvmtest("reproduce", name, "-o", tmp_path / "out").status == 0
    program = compiled(tmp_path / "out", name)
    before, after = ended_inside(lab, program, story.reverted), ended_inside(lab, program)
    assert (before[name][0], after[name][0]) == (1, 0)


def test_the_pages_show_both_runs(story: Story, tmp_path: Path) -> None:
    for folder, verdict in ((story.before, "FAIL"), (story.after, "PASS")):
        page = written(tmp_path / f"{folder.name}.html", folder)
        (title,) = page.query("title")
        assert verdict in text_of(title)
        shown = text_of(page.query("body")[0])
        assert all(name in shown for name in (*MENDED, UNTOUCHED, "EMULATED"))
    matrix = written(tmp_path / "both.html", story.before, story.after)
    links = [urldefrag(unquote(a.attrs["href"])) for a in matrix.query("tbody a[href]")]
    pages = {link.url: page_of((tmp_path / link.url).read_text()) for link in links}
    assert len(pages) == 2
    for link in links:
        assert not link.fragment or pages[link.url].query(f"[id='{link.fragment}']")


def written(path: Path, *evidences: Path) -> Any:
    """Return the page of one run or of several, which is valid HTML and needs nothing else."""
    ended = run_kvmtest("report", *evidences, "--html", path)
    assert ended.status == 0, ended.err
    page = page_of(path.read_text())
    assert_alone(page)
    return page


def test_inspect_says_without_a_boot_what_the_lab_decided(
    story: Story, kernel: BootableKernel, tmp_path: Path
) -> None:
    for run, modules, state in (
        (story.before, story.reverted, "absent"), (story.after, story.fixed, "present")
    ):  # fmt: skip
        folder = tmp_path / state
        # A module's types need those of its kernel's image.
        shutil.copytree(modules, folder)
        shutil.copy(kernel.image, folder / "vmlinuz")
        ended = run_kvmtest("kernel", "inspect", "--json", folder)
        (told,) = as_json(ended)["kernels"]
        assert (ended.status, told["fix"]) == ({"present": 0, "absent": 1}[state], state)
        decided = {r.id: r.verdict for r in load(run).results}
        expected = Verdict.PASS if state == "present" else Verdict.FAIL
        assert {decided[name] for name in MENDED} == {expected}
