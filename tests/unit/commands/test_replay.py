"""kvmtest replay: recorded readings judged again, and how that ends."""

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.evidence_samples import evidence_of
from support.leak_simulation import readings as recorded
from support.simulated_machine import Machine

from kvmtest.cli import main
from kvmtest.evidence import Required, Result, load, save
from kvmtest.judge import Absence, Reading, Role, Verdict, claim, control, judge, measure
from kvmtest.judge.leak import conclude
from kvmtest.judge.requirements import Demand, Kind
from kvmtest.missing import Missing

Capture = pytest.CaptureFixture[str]
LEAK = "vmx.leak.host-events"


def experiment(machine: Machine) -> Result:
    """Return what a run records of an experiment that ends as its samples say."""
    samples = machine.samples(random.Random(1))
    knob = control("hostmsr", "the knob reaches MSR 0x1d9", True, True, "")
    readings = [knob, *recorded(samples, conclude(samples))]
    judgement = judge(readings)
    return Result(LEAK, judgement.verdict, judgement.reason, readings=readings)


def simple(verdict: Verdict, observed: bool = True) -> Result:
    readings = [control("btf", "c", 1, 1, ""), claim("btf", "the member", observed, True)]
    return Result("kernel.fix-present", verdict, "because", readings=readings)


def written(path: Path, results: Sequence[Result], command: Sequence[str] = ()) -> Path:
    evidence = evidence_of(results, command=["kvmtest", "run", *command])
    save(evidence, path / "evidence.json")
    return path / "evidence.json"


@pytest.mark.parametrize(("leak", "verdict"), [(0.0, Verdict.PASS), (1.0, Verdict.FAIL)])
def test_an_experiment_is_judged_again_from_its_samples(
    tmp_path: Path, capsys: Capture, leak: float, verdict: Verdict
) -> None:
    result = experiment(Machine(handler=11, leak=leak))
    assert result.verdict is verdict
    assert main(["replay", str(written(tmp_path, [result]))]) == 0
    output = capsys.readouterr().out
    assert output.split("\n")[1].split()[:3] == [verdict, verdict, LEAK]
    assert "all 1 verdicts are the same\n" in output


def falsified(result: Result, changed: Callable[[Reading], Reading]) -> Result:
    return dataclasses.replace(result, readings=[changed(r) for r in result.readings])


@pytest.mark.parametrize(("leak", "lie"), [(1.0, Verdict.PASS), (0.0, Verdict.FAIL)])
def test_what_was_concluded_is_not_believed_but_concluded_anew(
    tmp_path: Path, capsys: Capture, leak: float, lie: Verdict
) -> None:
    def falsely(reading: Reading) -> Reading:
        is_claim = reading.role is Role.CLAIM
        observed = not reading.observed if is_claim else reading.observed
        return dataclasses.replace(reading, observed=observed)

    false = falsified(experiment(Machine(handler=11, leak=leak)), falsely)
    assert judge(false.readings).verdict is lie
    path = written(tmp_path, [dataclasses.replace(false, verdict=lie)])
    assert main(["replay", str(path)]) == 1
    assert f"1 of 1 verdicts differ: {LEAK}\n" in capsys.readouterr().out


def test_a_control_that_was_no_conclusion_still_counts(tmp_path: Path) -> None:
    def unplugged(reading: Reading) -> Reading:
        if reading.witness != "hostmsr":
            return reading
        return control("leak", reading.what, False, True, "")

    path = written(tmp_path, [falsified(experiment(Machine(handler=11)), unplugged)])
    assert main(["replay", str(path)]) == 1


def test_other_readings_are_judged_as_they_are(tmp_path: Path, capsys: Capture) -> None:
    assert main(["replay", str(written(tmp_path, [simple(Verdict.PASS)]))]) == 0
    assert main(["replay", str(written(tmp_path, [simple(Verdict.PASS, False)]))]) == 1
    assert "PASS      FAIL      kernel.fix-present" in capsys.readouterr().out


def test_figures_without_samples_stay_figures(tmp_path: Path) -> None:
    readings = [control("leak", "c", 1, 1, ""), measure("leak", "events", 3)]
    result = Result("svm.leak.guest-only", Verdict.MEASURED, "events: 3", readings=readings)
    assert main(["replay", str(written(tmp_path, [result]))]) == 0


def test_what_was_not_judged_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    results = [simple(Verdict.ERROR), dataclasses.replace(simple(Verdict.SKIP), id="any.soak")]
    assert main(["replay", str(written(tmp_path, results))]) == 0
    assert "nothing was judged (2 SKIP or ERROR were not judged)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "undecided",
    [{"missing": [Missing("no BTF")]}, {"absences": [Absence("btf", Missing("no BTF"))]}],
)
def test_what_was_required_and_not_decided_fails_again(
    tmp_path: Path, capsys: Capture, undecided: dict[str, list[object]]
) -> None:
    result = Result("kernel.fix-present", Verdict.FAIL, "--require", **undecided)

    def status(*command: str) -> int:
        return main(["replay", str(written(tmp_path, [result], command))])

    assert status("--require=witness:btf") == 0
    assert "no BTF" in " ".join(capsys.readouterr().out.split())
    assert status() == 1
    assert status("--", "--require=witness:btf") == 1
    # A bisection leaves it undecided.
    assert status("--bisect", "--require=witness:btf") == 1
    assert status("--require", "new.thing") == 2


@pytest.mark.parametrize("word", ["-h", "--help", "--version", "-o", "", "--requires"])
def test_other_words_of_the_recorded_command_are_nothing_to_obey(
    tmp_path: Path, capsys: Capture, word: str
) -> None:
    falsely = Result("kernel.fix-present", Verdict.PASS, "btf", readings=[claim("btf", "x", 0, 1)])
    assert main(["replay", str(written(tmp_path, [falsely], [word]))]) == 1
    assert "1 of 1 verdicts differ" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["run", "--require"], ["--require="], ["--require", ""]])
def test_a_recorded_requirement_of_nothing_is_told_in_one_line(
    tmp_path: Path, capsys: Capture, command: list[str]
) -> None:
    assert main(["replay", str(written(tmp_path, [simple(Verdict.PASS)], command))]) == 3
    assert "--require without its ID" in capsys.readouterr().err


DEMANDS = {
    "met": Demand("witness:btf", Kind.WITNESS, "btf"),
    "silent": Demand("witness:vmcs", Kind.WITNESS, "vmcs"),
    "missing": Demand("feature:tdx", Kind.FEATURE, "tdx", "TDX is off"),
}


@pytest.mark.parametrize("demand", DEMANDS)
def test_what_a_run_demanded_is_demanded_again(
    tmp_path: Path, capsys: Capture, demand: str
) -> None:
    verdict = Verdict.PASS if demand == "met" else Verdict.FAIL
    result = dataclasses.replace(simple(verdict), demands=[DEMANDS[demand]])
    path = written(tmp_path, [result], [f"--require={DEMANDS[demand].text}"])
    required = [Required(DEMANDS[demand].text, demand == "met")]
    save(dataclasses.replace(load(path), requirements=required), path)
    assert load(path).results == [result]
    assert main(["replay", str(path)]) == 0
    save(dataclasses.replace(load(path), results=[dataclasses.replace(result, demands=[])]), path)
    assert main(["replay", str(path)]) == (0 if demand == "met" else 1)


def test_a_broken_sample_is_told_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path, [experiment(Machine(handler=11))])
    data = json.loads(path.read_text())
    windows = [r for r in data["results"][0]["readings"] if r["what"].startswith("window")]
    windows[3]["raw"].pop("smis")
    path.write_text(json.dumps(data))
    assert main(["replay", str(path)]) == 3
    error = capsys.readouterr().err
    assert error == (
        f"kvmtest: {path}: a sample is broken or lacks 'smis'; copy it again, or run again\n"
    )
