"""kvmtest/fleet/survey.py: which runs of a survey are still to be made."""

from dataclasses import replace

import pytest

from kvmtest.fleet.survey import pending
from kvmtest.kernels.offers import Offer
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.survey import Key, Surveyed, SurveyMachine
from kvmtest.lab.target import LabOptions
from kvmtest.target import Job

OFFERS = [
    Offer(release, release.split("-")[0], f"{release.split('-')[0]}-1", (), ("bookworm",))
    for release in ("6.1.0-amd64", "6.12.7-amd64")
]


class Emulator:
    """Only what tells one machine from another."""

    name = "Bochs"
    cpus = 1


def machine(name: str, basis: str = "now", cpus: int | None = None) -> SurveyMachine:
    options = LabOptions(name, cpus=cpus)
    return SurveyMachine(options, Emulator(), Parameters.parse([], "kvm_intel"), Job(), basis)  # type: ignore[arg-type]


INTEL, AMD = machine("intel"), machine("amd")


def row(offer: Offer, of: SurveyMachine = INTEL) -> Surveyed:
    return Surveyed(
        offer.release, offer.version, offer.debian_version, None, "0.1.0", "Bochs 3, i7, 1 CPU",
        {}, {}, of.options.machine, 1, "", of.basis,
    )  # fmt: skip


def left(*rows: Surveyed, machines: tuple[SurveyMachine, ...] = (INTEL,)) -> list[tuple[str, str]]:
    known: dict[Key, Surveyed] = {each.key: each for each in rows}
    runs = pending(OFFERS, machines, known)
    return [(run.kernel, run.machine.options.machine) for run in runs]


def test_without_rows_all_kernels_run_in_all_machines() -> None:
    assert left(machines=(INTEL, AMD)) == [
        ("6.1.0-amd64", "intel"), ("6.1.0-amd64", "amd"),
        ("6.12.7-amd64", "intel"), ("6.12.7-amd64", "amd"),
    ]  # fmt: skip


def test_a_survey_that_was_stopped_goes_on_where_it_was() -> None:
    done = [row(OFFERS[0]), row(OFFERS[0], AMD), row(OFFERS[1])]
    assert left(*done, machines=(INTEL, AMD)) == [("6.12.7-amd64", "amd")]
    assert left(*done) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"basis": "another kvmtest or emulator"},
        {"basis": ""},
        {"debian_version": "6.1.0-2"},
        {"failure": "it panicked"},
        {"cpus": 2},
        {"setup": "kvm_intel.ept=0"},
    ],
    ids=str,
)
def test_a_row_made_otherwise_is_made_again(changed: dict[str, object]) -> None:
    assert left(replace(row(OFFERS[0]), **changed), row(OFFERS[1])) == [  # type: ignore[arg-type]
        ("6.1.0-amd64", "intel")
    ]
