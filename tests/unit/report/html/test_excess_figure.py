"""The figure of a run has a row for each property whose counters counted SMM, on one scale."""

from support.leak_simulation import readings, simulated

from kvmtest.evidence import Result
from kvmtest.judge import Verdict, judge, measure
from kvmtest.judge.leak import conclude
from kvmtest.report.html.excess_figure import excess_figure


def result_of(name: str, *, leaks: bool = False, per_smi: int = 11) -> Result:
    samples = simulated(rounds=9, leaks=leaks, per_smi=per_smi)
    concluded = conclude(samples)
    judgement = judge(concluded)
    return Result(name, judgement.verdict, "", readings=readings(samples, concluded))


def test_a_row_shows_freeze_off_and_on_on_the_scale_of_all() -> None:
    results = [
        result_of("vmx.leak.host-events"),
        result_of("vmx.leak.guest-pmu", leaks=True),
        result_of("nvmx.leak.l2", per_smi=44),
    ]
    figure = excess_figure(results)
    assert figure is not None
    assert (figure.least, figure.most) == ("0", "44.0")
    assert [row.result for row in figure.rows] == results
    assert [row.holds for row in figure.rows] == [True, False, True]
    assert [(row.off.at, row.on.at) for row in figure.rows if row.off and row.on] == [
        (25, 0), (25, 25), (100, 0),
    ]  # fmt: skip
    assert [row.off.words for row in figure.rows if row.off] == ["11.0", "11.0", "44.0"]


def test_intervals_are_around_their_means_and_within_the_figure() -> None:
    figure = excess_figure([result_of("vmx.leak.host-events")])
    assert figure is not None
    (row,) = figure.rows
    for mark in (row.off, row.on):
        assert mark is not None
        assert 0 <= mark.low <= mark.at <= mark.high <= 100
        assert str(mark).startswith(mark.words)


def test_what_counted_nothing_is_not_drawn() -> None:
    silent = result_of("vmx.leak.host-events", per_smi=0)
    assert excess_figure([silent, Result("any.soak", Verdict.PASS, "r")]) is None


def test_counts_that_no_counter_has_are_not_drawn() -> None:
    figures = {"counter": "c", "off": 1e308, "off_half": 1e307, "on": -1e308, "on_half": 0}
    broken = measure("leak", "c per SMI", "1, 1", **figures)
    assert excess_figure([Result("nvmx.leak.l2", Verdict.PASS, "r", readings=[broken])]) is None
