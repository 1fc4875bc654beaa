"""The page about a large fleet is of this code: its schedule is drawn and taken again."""

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fleet_results import write
from support.fleet_simulation import Story, schedule, story
from support.fleets import plan_text

from kvmtest.evidence import load
from kvmtest.fleet.course import Course, Ended, Run
from kvmtest.fleet.ledger import entries
from kvmtest.fleet.plan import parse
from kvmtest.fleet.tasks import lanes

PROJECT = Path(__file__).resolve().parents[3]
DATA = json.loads((PROJECT / "docs" / "fleet-scale.json").read_text())


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(PROJECT / "bench" / "fleet.py"))


def stories(hosts: int, kernels: int = 3, seed: int = 1) -> list[Story]:
    text = plan_text([f"h{n}" for n in range(hosts)], [f"k{n}" for n in range(kernels)])
    return [story(lane, seed) for lane in lanes(parse(text, Path("plan.yaml")))]


def test_the_page_is_what_its_data_make() -> None:
    tool = runpy.run_path(str(PROJECT / "tools" / "fleet_scale_doc.py"))
    assert tool["TARGET"].read_text() == tool["document"]()


def test_the_schedule_is_that_of_a_thousand_hosts_and_ten_kernels(bench: dict[str, Any]) -> None:
    _, made = bench["simulated"](bench["HOSTS"], bench["KERNELS"])
    figures = bench["of_schedule"](made)
    assert (figures["hosts"], figures["runs"]) == (1000, 10_000)
    assert {name: DATA[name] for name in figures} == figures


def test_the_measured_figures_reach_their_goals(bench: dict[str, Any]) -> None:
    matrix = DATA["matrix"]
    assert matrix["seconds"] <= bench["SECONDS"] == 60
    assert matrix["mib"] <= bench["MEMORY"] == 500
    assert matrix["html_mib"] <= bench["HTML"] == 50
    assert matrix["largest_mib"] <= bench["PAGE"]


def test_a_host_s_fate_is_its_own_and_the_seed_s() -> None:
    def fates(made: Sequence[Story]) -> list[Any]:
        return [(each.lane.name, each.entries) for each in made]

    assert fates(stories(8))[:5] == fates(stories(5))
    assert fates(stories(5)) != fates(stories(5, seed=2))


def test_a_story_is_a_ledger_that_leads_where_the_course_ended() -> None:
    for each in stories(40):
        facts = [entry.fact for entry in each.entries]
        assert Course.of(each.lane.tasks, facts) == each.course
        assert each.course.next is None
        times = [entry.at for entry in each.entries]
        assert times == sorted(times)
        assert all(isinstance(end, Ended) for end in facts[1::2])
        assert each.steps["Run"] == sum(isinstance(fact, Run) for fact in facts)


@pytest.mark.parametrize("at_once", [1, 3, 40, 100])
def test_no_schedule_is_shorter_than_its_longest_lane_or_fuller_than_its_places(
    at_once: int,
) -> None:
    made = stories(40)
    found = schedule(made, at_once)
    times = [each.seconds for each in made]
    least = max(max(times), sum(times) / at_once)
    assert least <= found.makespan <= sum(times) / at_once + max(times)
    assert found.utilisation == pytest.approx(sum(times) / (at_once * found.makespan))


def test_the_results_are_evidence_and_ledgers(tmp_path: Path) -> None:
    made = stories(12)
    evidence, ledgers = write(tmp_path, made)
    files = list(tmp_path.glob("*/*/*/evidence.json"))
    assert len(files) == sum(len(each.course.done) for each in made)
    assert evidence == sum(path.stat().st_size for path in files)
    assert {load(path).machine.hostname for path in files} <= {e.lane.host.name for e in made}
    for each in made:
        path = tmp_path / each.lane.folder / "ledger.jsonl"
        ledgers -= path.stat().st_size
        assert [entry.fact for entry in entries(path)] == [entry.fact for entry in each.entries]
    assert ledgers == 0
