"""Gaps are told apart by their cause as far as their windows say it."""

import itertools

from support.leak_simulation import simulated

from kvmtest.judge.samples import Gap
from kvmtest.report.html.gaps import Kind, gaps_of


def test_a_gap_is_an_smi_only_where_its_window_says_so() -> None:
    samples = simulated(rounds=4, exits=2)
    # No window saw these.
    between = samples.windows[1].ended + 1
    samples.gaps.extend([Gap(1, 2), Gap(between, between + 1)])
    gaps = gaps_of(samples)
    with_smis = [window for window in samples.windows if window.smis]
    certain = sum(window.gaps for window in with_smis if not window.exits)
    either = sum(window.gaps for window in with_smis if window.exits)
    exits = sum(window.gaps for window in samples.windows if not window.smis)
    assert {kind: len(begins) for kind, begins in gaps.begins.items()} == {
        Kind.SMI: certain, Kind.EITHER: either, Kind.EXIT: exits,
    }  # fmt: skip
    words = [part.partition(",")[0] for part in gaps.words.split("; ")]
    assert words == [f"{certain} SMIs", f"{either} SMIs or VM-exits", f"{exits} VM-exits"]


def test_bars_stand_on_each_other_and_the_tallest_fills_the_height() -> None:
    gaps = gaps_of(simulated(rounds=60, smis=17))
    columns = [list(bars) for _, bars in itertools.groupby(gaps.bars, lambda bar: bar.x)]
    for column in columns:
        bottom = float(gaps.height)
        for bar in column:
            assert abs(bar.y + bar.height - bottom) < 0.11
            bottom = bar.y
    assert min(bar.y for bar in gaps.bars) < 0.11
    assert all(0 <= bar.x <= 100 - bar.width + 0.01 for bar in gaps.bars)


def test_no_gap_makes_no_bar() -> None:
    samples = simulated()
    samples.gaps.clear()
    gaps = gaps_of(samples)
    assert (gaps.bars, gaps.words, gaps.shortest, gaps.longest) == ([], "", "", "")
