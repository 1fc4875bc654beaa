"""kvmtest list prints the table of properties."""

import json
from dataclasses import asdict

import pytest

from kvmtest.cli import main
from kvmtest.properties import PROPERTIES

Capture = pytest.CaptureFixture[str]


def test_the_list_as_json_is_the_table(capsys: Capture) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps([asdict(p) for p in PROPERTIES]))


def test_the_list_names_every_property_and_claim(capsys: Capture) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(p.id in out for p in PROPERTIES)
