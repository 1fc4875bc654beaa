"""Plots show what the evidence holds, and nothing that it does not."""

import importlib
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.evidence_samples import BOCHS, I7, evidence_of
from support.leak_simulation import COUNTER, readings, simulated

from kvmtest.cli import main
from kvmtest.evidence import Evidence, Result, save
from kvmtest.judge import Reading, Verdict, judge
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Gap, Samples
from kvmtest.run_folder import write_beside, write_plots

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvmtest.report import leak_figure

Capture = pytest.CaptureFixture[str]
LAB = {**BOCHS, "details": {}}


def judged(samples: Samples) -> Result:
    concluded = conclude(samples)
    judgement = judge(concluded)
    taken = readings(samples, concluded)
    return Result("vmx.leak.host-events", judgement.verdict, judgement.reason, readings=taken)


def evidence_in_lab(*results: Result) -> Evidence:
    return evidence_of(results, lab=LAB)


def panels(result: Result) -> tuple[Figure, dict[str, Any]]:
    """Draw, and return the panels by how the label of their x axis begins."""
    figure = leak_figure.draw(evidence_in_lab(result), result)
    return figure, {axes.get_xlabel().partition(" ")[0]: axes for axes in figure.axes}


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def text_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize(
    ("leaks", "verdict", "counted"), [(False, Verdict.PASS, 0), (True, Verdict.FAIL, 11)]
)
def test_each_arm_is_drawn_with_its_excess(leaks: bool, verdict: Verdict, counted: int) -> None:
    samples = simulated(rounds=9, leaks=leaks)
    figure, at = panels(judged(samples))
    assert text_of(figure).startswith(f"vmx.leak.host-events: {verdict}\n")
    machine = f"lab (Bochs 2.7, corei7_skylake_x): {I7}; EMULATED, not hardware"
    assert f"Linux 6.12.117, {machine}" in text_of(figure)
    (against_time,) = (a for a in figure.axes if a.get_ylabel().startswith("excess per window"))
    assert COUNTER in against_time.get_ylabel()
    per_smi = {Arm.QUIET: 0, Arm.KNOB_OFF: 11, Arm.KNOB_ON: counted}
    for arm, each in per_smi.items():
        windows = [window for window in samples.windows if window.arm is arm]
        middles = [(w.began + w.ended) / 2 - samples.windows[0].began for w in windows]
        drawn = points(against_time, arm)
        assert [x for x, _ in drawn] == middles
        assert [y for _, y in drawn] == pytest.approx([each * w.smis for w in windows], abs=1e-6)
        distribution = points(at["excess"], arm)
        assert [x for x, _ in distribution] == pytest.approx([each] * len(windows), abs=1e-6)


def test_a_window_without_its_smis_is_of_no_distribution() -> None:
    samples = simulated(exits=0)
    samples.windows[1] = replace(samples.windows[1], smis=0, gaps=0)
    _, at = panels(judged(samples))
    assert len(points(at["excess"], Arm.KNOB_OFF)) == 7


def test_arms_differ_without_colour() -> None:
    _, at = panels(judged(simulated()))
    markers = {line.get_label(): line.get_marker() for line in at["excess"].lines}
    assert len({markers[arm] for arm in (Arm.QUIET, Arm.KNOB_OFF, Arm.KNOB_ON)}) == 3


def test_intervals_are_those_of_the_verdict() -> None:
    result = judged(simulated(noise=40, per_smi=100_000))
    figures = next(r.raw for r in result.readings if "on_half" in r.raw)
    _, at = panels(result)
    bounds = {
        container.get_label(): container[2][0].get_segments()[0][:, 0].tolist()
        for container in at["excess"].containers
    }
    off, on, floor = figures["off"], figures["on"], figures["off_floor"]
    assert bounds == {
        "quiet interval": pytest.approx([-floor, floor]),
        "control interval": pytest.approx([off - figures["off_half"], off + figures["off_half"]]),
        "treatment interval": pytest.approx([on - figures["on_half"], on + figures["on_half"]]),
    }
    assert at["excess"].get_xlim()[1] > off
    (limit,) = (text.get_text() for text in at["excess"].texts if "of control" in text.get_text())
    assert limit == f"1% of control: {off / 100:,.4g}".replace("1e+03", "1,000")


def test_without_a_verdict_there_are_points_and_no_intervals() -> None:
    samples = simulated(rounds=2)
    _, at = panels(replace(judged(samples), readings=readings(samples)))
    assert not at["counted"].containers
    assert len(points(at["counted"], Arm.KNOB_OFF)) == 2


def test_a_gap_is_an_smi_only_where_its_window_says_so() -> None:
    samples = simulated(rounds=4, exits=2)
    # No window saw these.
    between = samples.windows[1].ended + 1
    samples.gaps.extend([Gap(1, 2), Gap(between, between + 1)])
    _, at = panels(judged(samples))
    with_smis = [window for window in samples.windows if window.smis]
    certain = sum(window.gaps for window in with_smis if not window.exits)
    either = sum(window.gaps for window in with_smis if window.exits)
    exits = sum(window.gaps for window in samples.windows if not window.smis)
    labels = [text.get_text() for text in at["length"].get_legend().get_texts()]
    starts = [f"{certain} SMIs", f"{either} SMIs or VM-exits", f"{exits} VM-exits"]
    assert [label.partition(",")[0] for label in labels] == starts
    bars = [[(bar.get_y(), bar.get_height()) for bar in each] for each in at["length"].containers]
    assert [sum(height for _, height in each) for each in bars] == [certain, either, exits]
    for lower, upper in itertools.pairwise(bars):
        assert [bottom for bottom, _ in upper] == [y + height for y, height in lower]
    marks, others = (lane.get_positions() for lane in at["TSC"].collections[:2])
    assert (len(marks), len(others)) == (certain, either)


def test_the_knob_is_drawn_from_toggle_to_toggle() -> None:
    samples = simulated(rounds=2)
    _, at = panels(judged(samples))
    origin = samples.windows[0].began
    knob = [path.get_extents() for lane in at["TSC"].collections[2:] for path in lane.get_paths()]
    begins = [toggle.ended - origin for toggle in samples.toggles]
    ends = [toggle.began - origin for toggle in samples.toggles[1:]]
    assert [box.x0 for box in knob] == begins
    assert [box.x1 for box in knob] == [*ends, samples.windows[-1].ended - origin]
    filled = [bool(lane.get_facecolor()[:, 3].any()) for lane in at["TSC"].collections[2:]]
    assert filled == [bool(toggle.value) for toggle in samples.toggles]


def test_thousands_of_gaps_and_none_can_be_drawn() -> None:
    _, at = panels(judged(simulated(rounds=60, smis=17)))
    assert sum(bar.get_height() for bars in at["length"].containers for bar in bars) > 2000
    samples = simulated()
    samples.gaps.clear()
    _, at = panels(judged(samples))
    assert [text.get_text() for text in at["length"].texts] == ["no gap was recorded"]


# Files


def test_the_same_evidence_gives_the_same_files(tmp_path: Path) -> None:
    undrawn = Result("kernel.fix-present", Verdict.PASS, "btf: yes")
    evidence = evidence_in_lab(judged(simulated(rounds=4)), undrawn)
    names = ["vmx.leak.host-events.svg", "vmx.leak.host-events.png"]
    again = Evidence.from_dict(json.loads(json.dumps(evidence.to_dict())))
    first, second = (write_plots(e, tmp_path / n) for e, n in ((evidence, "a"), (again, "b")))
    assert [path.name for path in first] == names
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(names)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg, png = first
    assert b"<svg" in svg.read_bytes()
    assert b"dc:date" not in svg.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_report_draws_and_says_where_there_is_nothing_to_draw(
    tmp_path: Path, capsys: Capture
) -> None:
    save(evidence_in_lab(judged(simulated(rounds=4))), tmp_path / "evidence.json")
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new").iterdir())) == 2
    save(evidence_in_lab(), tmp_path / "evidence.json")
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "none")]) == 3
    assert "no result has samples to draw" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_missing_matplotlib_is_one_line_and_fails_no_run(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    # The lab's machine imports all of kvmtest, and has none.
    importlib.reload(leak_figure)
    save(evidence_in_lab(judged(simulated(rounds=4))), tmp_path / "evidence.json")
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "new")]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "python3 -m pip install 'kvmtest[plots]'" in said
    write_beside(evidence_in_lab(judged(simulated(rounds=4))), tmp_path / "new")
    assert capsys.readouterr().err.startswith("kvmtest: no plots: drawing plots needs")
    assert not (tmp_path / "new").exists()
    # Who has nothing to draw is not told of it.
    write_beside(evidence_in_lab(), tmp_path / "new")
    assert capsys.readouterr().err == ""


def test_a_broken_sample_is_told(tmp_path: Path, capsys: Capture) -> None:
    def broken(reading: Reading) -> Reading:
        return (
            replace(reading, raw={**reading.raw, "smis": None})
            if "smis" in reading.raw
            else reading
        )

    result = judged(simulated(rounds=4))
    result = replace(result, readings=[broken(reading) for reading in result.readings])
    write_beside(evidence_in_lab(result), tmp_path)
    assert "vmx.leak.host-events: its samples can't be drawn (None is no" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
