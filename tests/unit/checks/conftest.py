"""What the tests of several checks share."""

from functools import partial
from pathlib import Path

import pytest
from support.fake_kvm import Decide, decide_on_fake_kvm


@pytest.fixture
def decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decide:
    return partial(decide_on_fake_kvm, tmp_path / "host", monkeypatch)
