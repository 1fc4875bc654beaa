"""``make fuzz``: the harnesses under atheris, one after the other.

Inputs that reached something new are kept below build/fuzz, so that a later run goes on from there.
Every run adds a line to build/fuzz/runs.jsonl.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.harness import NAMES, found_before, load

FOLDER = Path("build/fuzz")
# Of one input, by the clock: far above harness.LONGEST_S, for parsers that never end.
HANGS_S = 20
RSS_MB = 1536
TAIL = 15
INTERRUPTED = 72
"""libFuzzer's exit status after a SIGINT: the inputs until then count."""


@dataclass(frozen=True)
class Outcome:
    """One harness's run: inputs, seconds, and the inputs that were findings."""

    harness: str
    inputs: int
    seconds: float
    seed: int
    findings: list[str]


def main() -> int:
    options = _options()
    if importlib.util.find_spec("atheris") is None:
        print(
            "fuzz: atheris is missing: pip install --editable '.[fuzz]' (Python 3.11)",
            file=sys.stderr,
        )
        return 2
    outcomes = [_run(name, options) for name in options.harness or NAMES]
    print(f"{'harness':16}{'inputs':>12}{'seconds':>9}  findings")
    for each in outcomes:
        print(f"{each.harness:16}{each.inputs:12,}{each.seconds:9.1f}  {len(each.findings)}")
    for outcome in outcomes:
        for path in outcome.findings:
            print(f"{outcome.harness}: {path}")
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("harness", nargs="*", metavar="HARNESS", help=f"of: {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each (default: 20000)")
    parser.add_argument("--seconds", type=int, default=0, help="and no longer than this, each")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the fuzzer's generator; 0: another each time"
    )
    options = parser.parse_args()
    if unknown := set(options.harness) - set(NAMES):
        parser.error(f"there is no harness {', '.join(sorted(unknown))}")
    return options


def _run(name: str, options: argparse.Namespace) -> Outcome:
    corpus, found = FOLDER / name / "corpus", FOLDER / name / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    _write_seeds(name, FOLDER / name / "seeds")
    seed = options.seed or int.from_bytes(os.urandom(3), "little") + 1
    before = set(found.iterdir())
    command = [
        sys.executable, "-m", "fuzz.one", name, f"-runs={options.runs}", f"-seed={seed}",
        f"-max_total_time={options.seconds}", f"-timeout={HANGS_S}", f"-rss_limit_mb={RSS_MB}",
        "-print_final_stats=1", "-verbosity=0", "-reload=0", f"-artifact_prefix={found}/",
        str(corpus), str(FOLDER / name / "seeds"),
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - began
    said = done.stdout.decode(errors="replace")
    made = sorted(set(found.iterdir()) - before)
    if _ended(said):
        # libFuzzer blames the last input, an empty one, for whatever ends the interpreter.
        for path in made:
            path.unlink()
        made = []
    findings = [str(path) for path in made]
    if done.returncode not in (0, INTERRUPTED) and not findings and not _ended(said):
        findings = [f"exit status {done.returncode} without an input"]
    if findings:
        print(f"--- {name}", *said.splitlines()[-TAIL:], sep="\n", flush=True)
    inputs = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    outcome = Outcome(name, int(inputs[1]) if inputs else 0, round(seconds, 1), seed, findings)
    with (FOLDER / "runs.jsonl").open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")
    return outcome


def _ended(said: str) -> bool:
    """Tell whether the fuzzer finished: its figures come before any error of its own."""
    return "stat::peak_rss_mb" in said.partition("ERROR: libFuzzer")[0]


def _write_seeds(name: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for at, seed in enumerate(_seeds(name)):
        (folder / f"{at:03}").write_bytes(seed)


def _seeds(name: str) -> Iterator[bytes]:
    harness = load(name)
    seeds: Sequence[bytes] = (*harness.seeds, *harness.refused)
    yield from seeds
    for path in found_before(name):
        yield path.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
