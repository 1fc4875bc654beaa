"""The figure of a property shows the windows as they were judged, and nothing that is all zero."""

from dataclasses import replace

import pytest
from support.evidence_samples import evidence_of
from support.leak_simulation import COUNTER, readings, simulated

from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Verdict, judge
from kvmtest.judge.leak import conclude
from kvmtest.judge.samples import Arm, Clock, Samples
from kvmtest.report.html.windows_figure import Panel, WindowsFigure, windows_figure


def judged(samples: Samples) -> Result:
    concluded = conclude(samples)
    judgement = judge(concluded)
    taken = readings(samples, concluded)
    return Result("vmx.leak.host-events", judgement.verdict, judgement.reason, readings=taken)


def drawn(samples: Samples) -> WindowsFigure:
    figure = windows_figure(judged(samples))
    assert figure is not None
    return figure


def heights(panel: Panel, arm: Arm) -> set[float]:
    return {point.y for point in panel.points if point.arm is arm}


@pytest.mark.parametrize(
    ("leaks", "verdict"), [(False, Verdict.PASS), (True, Verdict.FAIL)], ids=["frozen", "leaking"]
)
def test_windows_lie_at_their_excess_per_smi(leaks: bool, verdict: Verdict) -> None:
    samples = simulated(rounds=9, leaks=leaks)
    assert judged(samples).verdict is verdict
    (panel,) = drawn(samples).panels
    assert (panel.counter, panel.what) == (COUNTER, "excess")
    # Per SMI: windows of four, five and six SMIs are at one height.
    (off,), (on,), (quiet,) = (
        heights(panel, arm) for arm in (Arm.KNOB_OFF, Arm.KNOB_ON, Arm.QUIET)
    )
    assert quiet == panel.zero
    assert on == (off if leaks else panel.zero)
    assert panel.limit is not None
    assert off < panel.limit < panel.zero
    assert [tick.words for tick in panel.ticks] == ["0", "0.110", "11.0"]
    assert [tick.y for tick in panel.ticks] == [panel.zero, panel.limit, off]


def test_windows_lie_in_the_order_of_time() -> None:
    samples = simulated(rounds=4)
    (panel,) = drawn(samples).panels
    assert [point.arm for point in panel.points] == [window.arm for window in samples.windows]
    places = [point.x for point in panel.points]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < 100


def test_a_window_without_its_smis_is_left_out() -> None:
    samples = simulated(exits=0)
    samples.windows[1] = replace(samples.windows[1], smis=0, gaps=0)
    (panel,) = drawn(samples).panels
    assert sum(point.arm is Arm.KNOB_OFF for point in panel.points) == 7


def test_a_counter_that_only_counts_the_guest_has_no_panel() -> None:
    assert drawn(simulated(per_smi=0)).panels == []


def test_without_quiet_windows_the_count_itself_is_drawn() -> None:
    samples = simulated(rounds=4)
    samples.windows[:] = [window for window in samples.windows if window.arm is not Arm.QUIET]
    (panel,) = drawn(samples).panels
    assert panel.what == "counted \N{MINUS SIGN} known"


def test_the_knob_is_drawn_from_toggle_to_toggle() -> None:
    samples = simulated(rounds=2)
    figure = drawn(samples)
    assert [each.is_on for each in figure.knob] == [bool(each.value) for each in samples.toggles]
    ends = [each.x + each.width for each in figure.knob]
    assert ends[-1] == pytest.approx(100)
    for end, following in zip(ends, figure.knob[1:], strict=False):
        assert end <= following.x


def test_time_is_in_milliseconds_where_the_clock_is_known() -> None:
    result = judged(simulated(rounds=2))
    figure = windows_figure(result)
    assert figure is not None
    assert figure.duration.endswith(" TSC ticks")
    ticks = int(figure.duration.partition(" ")[0].replace(",", ""))
    clock = Clock(ticks * 4, {}).reading()
    figure = windows_figure(replace(result, readings=[clock, *result.readings]))
    assert figure is not None
    assert figure.duration == "250 ms"


def test_thousands_of_smis_take_no_more_places_than_can_be_told_apart() -> None:
    figure = drawn(simulated(rounds=300, smis=17))
    assert len(figure.smis) + len(figure.unsure) <= 2 * (figure.places + 1)


def test_a_result_without_windows_has_no_figure() -> None:
    assert windows_figure(Result("any.soak", Verdict.PASS, "r")) is None


def test_a_broken_sample_is_refused() -> None:
    result = judged(simulated(rounds=4))
    broken = [
        replace(each, raw={**each.raw, "smis": None}) if "smis" in each.raw else each
        for each in result.readings
    ]
    with pytest.raises(ValueError, match="None is no whole number"):
        windows_figure(replace(result, readings=broken))


def test_evidence_that_was_written_and_read_makes_the_same_figure() -> None:
    result = judged(simulated(rounds=4))
    evidence = Evidence.from_dict(evidence_of([result]).to_dict())
    assert windows_figure(evidence.results[0]) == windows_figure(result)
