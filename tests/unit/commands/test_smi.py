"""kvmtest smi probe proves what it can, and shows why the rest can't be used; smi watch counts.

In a stand-in tree a command that raises a byte of the MSR device is an SMI that counts.
"""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stand_in import FACP, XEON, command, environment, fadt_table, intel_host, write

from kvmtest.cli import main
from kvmtest.errors import KvmtestError
from kvmtest.host.changes.lock import Lock
from kvmtest.host.facts.msr import MSR_SMI_COUNT
from kvmtest.host.tree import Tree
from kvmtest.smi import Proof, Ready
from kvmtest.smi import probe as smi_probe
from kvmtest.smi.counts import MsrSmiCount

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def host(tmp_path: Path) -> Tree:
    tree = intel_host(tmp_path / "host")
    write(tree, FACP, fadt_table(XEON))
    write(tree, "/dev/port", bytes(0x100))
    write(tree, "/sys/firmware/efi/efivars/BootOrder-1", b"\7\0\0\0")
    return tree


@pytest.fixture
def smi(host: Tree, tmp_path: Path) -> str:
    """A source that counts two SMIs a trigger on each CPU."""
    device = host.path("/dev/cpu/0/msr")
    script = write(
        Tree(tmp_path),
        "/smi",
        f"n=$(od -An -tu1 -j{MSR_SMI_COUNT} -N1 {device})\n"
        f'printf "\\\\$(printf %o $((n + 2)))" |'
        f" dd of={device} bs=1 seek={MSR_SMI_COUNT} conv=notrunc status=none\n",
    )
    return f"command:sh {script}"


@pytest.fixture
def probe(host: Tree, capsys: Capture) -> Callable[..., tuple[int, str]]:
    def probe(*words: str) -> tuple[int, str]:
        status = main(["smi", "probe", "--root", str(host.root), "--rate", "10", *words])
        return status, capsys.readouterr().out

    return probe


def probed(probe: Callable[..., tuple[int, str]], *words: str) -> tuple[int, dict[str, Any]]:
    status, out = probe("--json", *words)
    return status, json.loads(out)


def test_a_source_that_counts_is_proved(probe: Callable[..., tuple[int, str]], smi: str) -> None:
    status, out = probe("--source", smi, "--count", "3")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "SMIs counted by MSR 0x34"
    assert any(line.startswith("command proved, safe up to ") for line in lines)
    assert "sent: 3; SMIs counted: 6 on each of 2 CPUs" in lines
    assert any(line.startswith("time each took: ") for line in lines)


def test_a_rate_has_no_exponent(
    probe: Callable[..., tuple[int, str]], host: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = Proof("efivar", "MSR 0x34", sent=9, counted={0: 9}, safe_hz=10_000)
    monkeypatch.setattr(smi_probe, "prove", lambda *_, **__: proof)
    assert "proved, safe up to 10000 Hz" in probe()[1]


def test_its_json_has_the_whole_proof(probe: Callable[..., tuple[int, str]], smi: str) -> None:
    status, told = probed(probe, "--source", smi, "--count", "2")
    assert status == 0
    assert told["count"] == "MSR 0x34"
    assert told["machine"]["kind"] == "stand-in"
    (name, source), *others = told["sources"].items()
    assert (name, others) == ("command", [])
    assert source["proved"] is True
    assert source["counted"] == {"0": 4, "1": 4}
    assert len(source["latencies_s"]) == source["sent"] == 2


def test_unasked_only_gentle_sources_are_tried(
    probe: Callable[..., tuple[int, str]], host: Tree
) -> None:
    status, told = probed(probe)
    assert status == 4
    assert told["sources"]["efivar"]["proved"] is False
    assert told["sources"]["efivar"]["refusal"] == "trigger 1 raised no SMI that MSR 0x34 counts"
    for name in ("passive", "apm-port"):
        assert told["sources"][name]["missing"] == "it looks usable, and was not tried"
        assert told["sources"][name]["remedy"] == f"use --source {name}"
    assert told["sources"]["efivarfs-statfs"]["proved"] is False
    untried = told["sources"]["efivar-refused"]
    assert untried["missing"].endswith("was not tried, as efivarfs-statfs is not proved")
    assert untried["remedy"] == "use --source efivar-refused"
    assert told["sources"]["lab"]["missing"]
    assert host.path("/dev/port").read_bytes() == bytes(0x100)


def test_what_stores_is_tried_where_what_reads_is_proved(
    probe: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[str, float] = {}

    def prove(source: Ready, *_: object, rate_hz: float, **__: object) -> Proof:
        rates[source.name] = rate_hz
        return Proof(source.name, "MSR 0x34", sent=9, counted={0: 9}, safe_hz=9)

    monkeypatch.setattr(smi_probe, "prove", prove)
    status, told = probed(probe)
    assert status == 0
    assert told["sources"]["efivar-refused"]["proved"]
    # At the rate that was asked for, and no faster than each takes.
    assert rates == {"efivar": 10, "efivarfs-statfs": 2.4, "efivar-refused": 10}


def test_after_trouble_nothing_more_is_tried(
    probe: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def prove(source: Ready, *_: object, **__: object) -> Proof:
        tried.append(source.name)
        return Proof(source.name, "MSR 0x34", refusal="the kernel reported: x", troubled=True)

    monkeypatch.setattr(smi_probe, "prove", prove)
    status, told = probed(probe)
    assert (status, tried) == (4, ["efivar"])
    for name in ("efivarfs-statfs", "efivar-refused"):
        assert "the kernel reported trouble after efivar" in told["sources"][name]["missing"]


def test_a_source_that_can_t_be_prepared_says_why(
    probe: Callable[..., tuple[int, str]], host: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise KvmtestError("no room; make some")

    monkeypatch.setattr(smi_probe, "ready", refuse)
    status, out = probe("--source", "efivar-refused")
    assert status == 4
    assert "not proved: no room; make some" in out


def test_the_port_is_written_where_it_is_asked_for(
    probe: Callable[..., tuple[int, str]], host: Tree
) -> None:
    status, out = probe("--source", "apm-port:0x91")
    assert status == 4
    assert "not proved: trigger 1 raised no SMI that MSR 0x34 counts" in out
    assert host.path("/dev/port").read_bytes()[0xB2] == 0x91


def test_without_a_count_nothing_is_tried(
    probe: Callable[..., tuple[int, str]], host: Tree
) -> None:
    host.path("/dev/cpu/0/msr").write_bytes(b"")
    status, told = probed(probe, "--source", "apm-port")
    assert status == 4
    assert told["sources"]["apm-port"]["missing"].startswith("nothing counts SMIs: CPU 0")
    assert host.path("/dev/port").read_bytes() == bytes(0x100)


def test_a_run_that_holds_the_machine_is_not_disturbed(
    probe: Callable[..., tuple[int, str]], host: Tree, capsys: Capture
) -> None:
    lock = Lock.take(host)
    try:
        status = main(["smi", "probe", "--root", str(host.root), "--source", "apm-port"])
    finally:
        lock.release()
    assert status == 3
    assert "another kvmtest run holds" in capsys.readouterr().err
    assert host.path("/dev/port").read_bytes() == bytes(0x100)
    Lock.take(host).release()
    assert probe("--source", "apm-port")[0] == 4
    Lock.take(host).release()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "apm-port:300"], "it takes a byte"),
        (["--source", "apm-port", "--rate", "50"], "takes rates up to 20 Hz, not 50"),
    ],
)
def test_what_a_source_does_not_take_is_refused(
    host: Tree, capsys: Capture, words: list[str], said: str
) -> None:
    assert main(["smi", "probe", "--root", str(host.root), *words]) == 2
    assert said in capsys.readouterr().err
    assert host.path("/dev/port").read_bytes() == bytes(0x100)


# kvmtest smi watch


def raise_smis(tree: Tree, number: int) -> None:
    device = tree.path("/dev/cpu/0/msr")
    msrs = bytearray(device.read_bytes())
    msrs[MSR_SMI_COUNT] += number
    device.write_bytes(msrs)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_watch_in_a_pipe_prints_lines_until_a_signal(
    host: Tree, number: signal.Signals, status: int
) -> None:
    words = command("smi", "watch", "--interval", "0.05", "--root", host.root)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env=environment(), text=True) as watch:
        assert watch.stdout
        assert watch.stderr
        head = watch.stdout.readline()
        assert head == "SMIs counted by MSR 0x34 on 2 CPUs, looked at every 0.05 s\n"
        raise_smis(host, 2)
        assert watch.stdout.readline()[8:] == " 2 SMIs on CPUs 0-1\n"
        watch.send_signal(number)
        (last,) = watch.stdout.read().splitlines()
        assert last.startswith("2 SMIs on each of CPUs 0-1 in ")
        assert watch.stderr.read() == ""
    assert watch.returncode == status


def test_a_watch_ends_after_its_time(host: Tree, capsys: Capture) -> None:
    words = ["smi", "watch", "--seconds", "0.05", "--interval", "0.01", "--root", str(host.root)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no SMI on CPUs 0-1 in 0.")


def test_a_watch_where_nothing_counts_says_what_is_missing(host: Tree, capsys: Capture) -> None:
    host.path("/dev/cpu/0/msr").unlink()
    assert main(["smi", "watch", "--root", str(host.root)]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("kvmtest: nothing counts SMIs: module msr is not loaded")
    assert shown.err.endswith("; modprobe msr\n")
    assert shown.err.count("\n") == 1


def test_a_cpu_that_goes_ends_a_watch_in_one_line(host: Tree, capsys: Capture) -> None:
    # The first look at the machine finds the device; the second does not.
    device = host.path("/dev/cpu/1")
    real = MsrSmiCount.read_all

    def read_all(count: MsrSmiCount) -> dict[int, int]:
        counted = real(count)
        device.unlink(missing_ok=True)
        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MsrSmiCount, "read_all", read_all)
        assert main(["smi", "watch", "--interval", "0.01", "--root", str(host.root)]) == 3
    assert "can't read MSR 0x34 (MSR_SMI_COUNT) on CPU 1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--interval", "0"], ["--seconds", "-1"], ["--seconds", "nan"]])
def test_a_watch_takes_times_alone(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["smi", "watch", *words])
    assert end.value.code == 2
    assert "give 0.01 to 1000000 seconds" in capsys.readouterr().err
