"""The results of a simulated fleet: evidence made from the recorded runs in tests/recorded."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvmtest.evidence.file import EVIDENCE
from kvmtest.fleet.ledger import LEDGER
from support.fleet_simulation import Story

__all__ = ["write"]

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
#: Of so many hosts, one has a machine whose runs are not good.
GOOD = 20
#: How many of a hundred thousand results become this verdict.
CHANGED = {"FAIL": 10, "INCONCLUSIVE": 50}


def write(folder: Path, stories: Sequence[Story], seed: int = 1) -> tuple[int, int]:
    """Write evidence and ledgers below ``folder``; return how many bytes each are in all."""
    chance = random.Random(seed)
    runs = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))]
    good = [run for run in runs if run["exit_status"] == 0]
    bad = [run for run in runs if run["exit_status"] != 0]
    evidence = ledgers = 0
    for story in stories:
        lane = story.lane
        run = chance.choice(bad if chance.randrange(GOOD) == 0 else good)
        (folder / lane.folder).mkdir(parents=True, exist_ok=True)
        text = b"".join(entry.line for entry in story.entries)
        ledgers += (folder / lane.folder / LEDGER).write_bytes(text)
        for kernel, number in story.course.done:
            place = folder / lane.host.name / kernel / str(number)
            place.mkdir(parents=True)
            data = _changed(run, lane.host.name, kernel, chance)
            evidence += (place / EVIDENCE).write_text(json.dumps(data))
    return evidence, ledgers


def _changed(data: dict[str, Any], host: str, kernel: str, chance: random.Random) -> dict[str, Any]:
    """Return a run as if it were of this host and kernel, now and then with another verdict."""
    results = [dict(each) for each in data["results"]]
    status = data["exit_status"]
    for each in results:
        for verdict, share in CHANGED.items():
            if chance.randrange(100_000) < share:
                each.update(verdict=verdict, reason=f"as drawn for {host}")
                status = 1 if verdict == "FAIL" else status
    counts = Counter(each["verdict"] for each in results)
    return {
        **data,
        "machine": {**data["machine"], "hostname": host},
        "kernel": {**data["kernel"], "release": f"6.12.{kernel.lstrip('k')}"},
        "results": results,
        "summary": {verdict: counts[verdict] for verdict in data["summary"]},
        "exit_status": status,
    }
