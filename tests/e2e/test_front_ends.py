"""kvmtest run and pytest over the suite are two front ends of one run: they say the same of it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.stand_in import (
    BTF,
    UNFIXED,
    command,
    environment,
    intel_host,
    need_free_machine,
    need_kvm,
    snapshot,
    write,
)

import kvmtest.suite
from kvmtest.evidence import load
from kvmtest.host.tree import Tree

SUITE = Path(kvmtest.suite.__file__).parent


def of_kvmtest(*words: str) -> list[str]:
    return command("run", *words)


def of_pytest(*words: str) -> list[str]:
    """Return the words of plain pytest for those of ``kvmtest run``."""
    own = [word.replace("--", "--kvmtest-") if word.startswith("--") else word for word in words]
    own = ["--kvmtest-output" if word == "-o" else word for word in own]
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE), *own]


FRONT_ENDS: dict[str, Callable[..., list[str]]] = {"kvmtest": of_kvmtest, "pytest": of_pytest}


def said(output: Path) -> dict[str, Any]:
    """Return the evidence without what differs from run to run: the command, and times."""
    evidence = json.loads((output / "evidence.json").read_text())
    for name in ("command", "started", "ended"):
        del evidence["kvmtest"][name]
    for result in evidence["results"]:
        del result["seconds"]
        for reading in result["readings"]:
            del reading["time"]
    return evidence


def both(
    cwd: Path, words: Sequence[str], at_start: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Run both front ends; return their exit statuses. Files go to folders of their names."""
    statuses = {}
    for name, front_end in FRONT_ENDS.items():
        at_start()
        done = subprocess.run(
            front_end("-o", name, *words),
            cwd=cwd,
            env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_PLUGINS="kvmtest.plugin"),
            capture_output=True,
            timeout=120,
        )
        statuses[name] = done.returncode
    return statuses


def fixed(root: Path) -> None:
    intel_host(root)


def unfixed(root: Path) -> None:
    intel_host(root, btf=UNFIXED)


def without_btf(root: Path) -> None:
    intel_host(root).path(BTF).unlink()


def empty(root: Path) -> None:
    root.mkdir()


@pytest.mark.parametrize("words", [[], ["--strict"], ["--bisect"], ["--require", "feature:tdx"],
    ["--require", "feature:tdx", "--bisect"], ["-m", "amd"], ["--only", "any.soak"]],
    ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("make", [fixed, unfixed, without_btf, empty])
def test_they_say_the_same_of_a_stand_in(
    tmp_path: Path, make: Callable[[Path], None], words: list[str]
) -> None:
    host = tmp_path / "host"
    make(host)
    statuses = both(tmp_path, ["--root", str(host), *words])
    assert statuses["kvmtest"] == statuses["pytest"]
    assert said(tmp_path / "kvmtest") == said(tmp_path / "pytest")
    files = {name: {path.name for path in (tmp_path / name).iterdir()} for name in FRONT_ENDS}
    assert files["kvmtest"] == files["pytest"]


@pytest.mark.parametrize(("words", "status"), [(["--only", "no.such"], 2),
    (["--require", "witness:none"], 2), (["--only", "no.such", "--bisect"], 125),
    (["--only", "any.soak", "--require", "host.hotplug"], 2)])  # fmt: skip
def test_what_makes_no_sense_begins_neither(tmp_path: Path, words: list[str], status: int) -> None:
    intel_host(tmp_path / "host")
    statuses = both(tmp_path, ["--root", str(tmp_path / "host"), *words])
    assert statuses == {"kvmtest": status, "pytest": status}
    assert {path.name for path in tmp_path.iterdir()} == {"host"}


def test_a_dry_run_changes_nothing_in_either(tmp_path: Path) -> None:
    tree = intel_host(tmp_path / "host")
    before = snapshot(tree)
    assert both(tmp_path, ["--root", str(tree.root), "--dry-run"]) == {"kvmtest": 0, "pytest": 0}
    assert snapshot(tree) == before
    assert {path.name for path in tmp_path.iterdir()} == {"host"}


def test_they_say_the_same_of_this_machine(tmp_path: Path) -> None:
    need_kvm()
    words = ["--allow-other-vms"]
    for name in ("kernel.fix-present", "guest.rdmsr-hides", "any.no-warnings"):
        words += ["--only", name]
    statuses = both(tmp_path, words, need_free_machine)
    assert statuses["kvmtest"] == statuses["pytest"]
    one, other = (load(tmp_path / name) for name in FRONT_ENDS)
    assert [(r.id, r.verdict) for r in one.results] == [(r.id, r.verdict) for r in other.results]
    assert (one.machine, one.summary) == (other.machine, other.summary)
    # The VMs of other tests come and go.
    hosts = [replace(each.host, kvm_users=None) for each in (one, other)]
    assert hosts[0] == hosts[1]
    assert one.exit_status == other.exit_status == statuses["pytest"]


# A check that waits to be interrupted, and says that it waits.
WAITING = """\
import signal, sys
import kvmtest.session
def check(context):
    context.journal.write("/sys/devices/cpu/freeze_on_smi", "0")
    print("waiting", file=sys.__stderr__, flush=True)
    while True:
        signal.pause()
    yield
kvmtest.session.check_of = lambda prop: check
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_signal_puts_the_host_back_and_is_told(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    tree: Tree = intel_host(tmp_path / "host")
    before = snapshot(tree)
    write(Tree(tmp_path), "/sitecustomize.py", WAITING)
    words = ["--root", str(tree.root), "-o", "out", "--only", "kernel.fix-present"]
    words = FRONT_ENDS[name](*words)
    more = ["-s"] if name == "pytest" else []
    env = environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_PLUGINS="kvmtest.plugin")
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    run = subprocess.Popen([*words, *more], cwd=tmp_path, env=env, stderr=subprocess.PIPE,
                           stdout=subprocess.DEVNULL)  # fmt: skip
    assert run.stderr
    assert b"waiting\n" in iter(run.stderr.readline, b"")
    run.send_signal(number)
    run.stderr.read()
    run.stderr.close()
    assert run.wait(60) == 128 + number
    assert snapshot(tree) == before
    evidence = load(tmp_path / "out")
    assert evidence.exit_status == 128 + number
    assert evidence.kvmtest.interrupted
    assert [(r.verdict, r.reason) for r in evidence.results] == [("ERROR", "interrupted")]
