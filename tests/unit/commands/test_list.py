"""kvmtest list prints the table of properties."""

import json
from dataclasses import asdict

import pytest

from kvmtest.cli import main
from kvmtest.properties import PROPERTIES, find

Capture = pytest.CaptureFixture[str]


def test_the_list_as_json_is_the_table(capsys: Capture) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps([asdict(p) for p in PROPERTIES]))


def test_the_list_has_a_line_for_each_property(capsys: Capture) -> None:
    assert main(["list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["property", "witnesses", "markers"]
    assert [line.split() for line in lines] == [
        [p.id, *p.witnesses, *p.markers] for p in PROPERTIES
    ]


def test_what_is_named_has_its_claim_its_needs_and_its_source(capsys: Capture) -> None:
    fresh, soak = (find(name) for name in ("vmx.entry.fresh", "any.soak"))
    assert main(["list", soak.id, fresh.id]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for each in (fresh, soak):
        assert f"property {each.id} claim {each.claim} witnesses" in said
        assert f"source {each.source}" in said
    assert said.count("property ") == 2
    assert main(["list", "--json", soak.id]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [soak.id]


def test_a_property_that_there_is_not_is_refused(capsys: Capture) -> None:
    assert main(["list", "vmx.entry.frsh"]) == 2
    assert "vmx.entry.frsh" in capsys.readouterr().err
