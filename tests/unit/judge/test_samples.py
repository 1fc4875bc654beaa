"""Samples: readings of evidence and back."""

import dataclasses
import json

import pytest

from kvmtest.evidence.coding import decode, encode
from kvmtest.evidence.model import Result
from kvmtest.judge import Verdict, measure
from kvmtest.judge.samples import Arm, Clock, Gap, Samples, Toggle, Window

WINDOW = Window(
    Arm.KNOB_OFF, 100, 900, {"instructions:k": 510, "cycles:k": 777}, {"instructions:k": 400},
    exits=2, smis=10, gaps=12,
)  # fmt: skip
SAMPLES = Samples([WINDOW], [Gap(150, 190), Gap(200, 207, 1)], [Toggle(1, 120, 130)])


def through_json(samples):
    readings = [
        each.reading(number)
        for kind in (samples.windows, samples.gaps, samples.toggles)
        for number, each in enumerate(kind)
    ]
    result = Result("vmx.leak.host-events", Verdict.PASS, "so", readings=readings)
    return decode(Result, json.loads(json.dumps(encode(result)))).readings


def test_samples_come_back_from_evidence_as_they_were():
    assert Samples.of(through_json(SAMPLES)) == SAMPLES


def test_other_readings_are_no_samples():
    assert Samples.of([measure("leak", "window of chances", 1)]) == Samples()


def test_the_clock_is_recorded_beside_them_and_judged_by_nobody():
    reading = Clock(2_000_000_000, {0: -77, 1: 5}).reading()
    assert (reading.observed, reading.raw) == (2_000_000_000, {"offset 0": -77, "offset 1": 5})
    assert Samples.of([*through_json(SAMPLES), reading]) == SAMPLES


@pytest.mark.parametrize(
    ("exits", "gaps", "smis", "in_guest"),
    [
        (0, 10, 10, 10),
        (2, 12, 10, 10),
        (2, 7, 10, 5),  # five hid in host mode
        (3, 2, 10, None),  # an exit without a gap: then nothing is known
        (0, 11, 10, None),  # a gap of neither kind
        (0, 0, 0, 0),
    ],
)
def test_smis_in_guest_mode_are_the_gaps_that_no_exit_explains(exits, gaps, smis, in_guest):
    window = dataclasses.replace(WINDOW, exits=exits, gaps=gaps, smis=smis)
    assert window.guest_smis == in_guest


@pytest.mark.parametrize(
    "broken", [{"arm": "loud"}, {"began": True}, {"smis": None}, {"gaps": 1.5}]
)
def test_a_broken_sample_is_refused(broken):
    with pytest.raises(ValueError, match=r"loud|whole"):
        Window.of({**WINDOW.reading(0).raw, **broken})


def test_an_incomplete_sample_is_refused():
    with pytest.raises(KeyError):
        Gap.of({"began": 1, "ended": 2})
