"""kvmtest/lab/inside/agent.py: what it sends is what the channel outside hears.

A shell script plays the program port: it sends to a file, and receives from one.
"""

import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from kvmtest.lab.channel import Channel, Line, Message, ReceivedFile
from kvmtest.lab.image import payload

AGENT = Path(payload.__file__).parents[1] / "inside" / "agent.py"
PORT = """#!/bin/sh
cd "$(dirname "$0")"
case $1 in
send) exec cat >> sent ;;
receive) exec cat drive ;;
breakpoint | end) echo $1 >> stops ;;
esac
"""
# Plays kvmtest: says a line from Python, one from a child, and one without a newline.
KVMTEST = """
import os, subprocess, sys
def main(words):
    print("ran", *words, os.environ["KVMTEST_LAB"])
    sys.stdout.flush()
    subprocess.run(["echo", "a child"])
    print("to stderr", file=sys.stderr)
    sys.stdout.write("no newline")
    if "exit" in words:
        sys.exit("bad")
    if "usage" in words:
        sys.exit(2)
    return 1
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the agent with all its places below tmp_path."""
    specification = importlib.util.spec_from_file_location("agent", AGENT)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    port = tmp_path / "port"
    port.write_text(PORT)
    port.chmod(0o755)
    monkeypatch.setattr(module, "PORT", str(port))
    for name in ("PACKAGE", "JOB", "OUTPUT", "PORTS"):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
    return module


def heard(tmp_path: Path) -> list[object]:
    sent = tmp_path / "sent"
    return list(Channel().feed(sent.read_bytes() if sent.exists() else b""))


def test_the_serial_ports_interrupts_are_switched_off(agent: ModuleType, tmp_path: Path) -> None:
    agent.silence_serial_port()  # as it may not be there
    ports = tmp_path / "ports"
    ports.write_bytes(b"\x0f" * 0x400)
    agent.silence_serial_port()
    held = ports.read_bytes()
    assert held[0x3F9] == 0
    assert set(held[:0x3F9] + held[0x3FA:]) == {0x0F}


def test_a_message_is_heard_outside(agent: ModuleType, tmp_path: Path) -> None:
    agent.send(stage="awake", text="é\n\x1e")
    assert heard(tmp_path) == [Message({"stage": "awake", "text": "é\n\x1e"})]


def test_a_file_is_heard_outside(agent: ModuleType, tmp_path: Path) -> None:
    data = b"\x1e{}\n\0"
    agent.send(data, file="evidence.json", size=len(data))
    assert heard(tmp_path) == [ReceivedFile("evidence.json", data)]


def test_a_stage_is_told_with_the_machine_s_uptime(agent: ModuleType, tmp_path: Path) -> None:
    agent.report_stage("booted")
    (event,) = heard(tmp_path)
    assert isinstance(event, Message)
    assert event.fields["stage"] == "booted"
    assert event.fields["uptime"] > 0


def test_a_payload_is_unpacked_where_it_belongs(agent: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "drive").write_bytes(payload.archive({"a/b.py": b"x", "c": b""}))
    agent.receive(agent.PACKAGE)
    assert (tmp_path / "package" / "a" / "b.py").read_bytes() == b"x"


@pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="tarfile has filters since Python 3.11.4"
)
def test_a_payload_that_leads_elsewhere_is_refused(agent: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "drive").write_bytes(payload.archive({"../c": b""}))
    with pytest.raises(tarfile.TarError):
        agent.receive(agent.PACKAGE)
    assert not (tmp_path / "c").exists()


def test_a_job_s_commands_run_in_its_folder_one_after_the_other(
    agent: ModuleType, tmp_path: Path
) -> None:
    agent.JOB.mkdir()
    commands = [["touch", "one"], ["cp", "one", "two"]]
    assert agent.run_commands({"commands": commands})
    assert sorted(path.name for path in agent.JOB.iterdir()) == ["one", "two"]
    assert heard(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "echo first >&2; echo module is in use >&2; exit 4"], "module is in use"),
        (["false"], "status 1"),
    ],
)
def test_a_command_that_fails_is_told_and_is_the_last(
    agent: ModuleType, tmp_path: Path, command: list[str], why: str
) -> None:
    agent.JOB.mkdir()
    assert not agent.run_commands({"commands": [command, ["touch", "one"]]})
    assert heard(tmp_path) == [Message({"failed": f"{' '.join(command)}: {why}"})]
    assert list(agent.JOB.iterdir()) == []


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("boot\nkvm: Unknown symbol x (err -2)", " (the kernel: kvm: Unknown symbol x (err -2))"),
        ("", ""),
    ],
)
def test_why_the_kernel_refuses_a_module_is_told(
    agent: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, told: str
) -> None:
    agent.JOB.mkdir()
    scripts = {"modprobe": "echo invalid argument >&2; exit 1", "dmesg": f"printf '{log}'"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert not agent.run_commands({"commands": [["modprobe", "kvm"]]})
    assert heard(tmp_path) == [Message({"failed": f"modprobe kvm: invalid argument{told}"})]


RUNNER = """
import importlib.util, json, sys
from pathlib import Path
specification = importlib.util.spec_from_file_location("agent", sys.argv[1])
agent = importlib.util.module_from_spec(specification)
specification.loader.exec_module(agent)
root = Path(sys.argv[2])
agent.PORT, agent.OUTPUT = str(root / "port"), root / "output"
agent.PACKAGE, agent.JOB = root / "package", root / "job"
agent.import_others = agent.warm_up = lambda: None
agent.silence_serial_port = agent.set_clock_and_entropy = lambda *job: None
def receive(folder):
    if folder == agent.PACKAGE:
        sys.path.insert(0, str(root / "fake"))
receive_job = agent.receive
agent.receive = lambda folder: receive(folder) if folder == agent.PACKAGE else receive_job(folder)
agent.main()
print("the end")
"""


def run_agent(tmp_path: Path, command: list[str], commands: list[list[str]]) -> list[object]:
    """Run the agent from its start, with a kvmtest of our own; return what is heard outside."""
    (tmp_path / "fake" / "kvmtest").mkdir(parents=True)
    (tmp_path / "fake" / "kvmtest" / "__init__.py").touch()
    (tmp_path / "fake" / "kvmtest" / "cli.py").write_text(KVMTEST)
    output = tmp_path / "output"
    output.mkdir()
    (output / "evidence.json").write_bytes(b"{}\n")
    (output / "a.bin").write_bytes(b"\x1e\0")
    job = payload.job(command, {"KVMTEST_LAB": "{}"}, commands)
    (tmp_path / "drive").write_bytes(payload.archive(job))
    script = [sys.executable, "-c", RUNNER, str(AGENT), str(tmp_path)]
    done = subprocess.run(
        script, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    # What kvmtest says goes out by the port alone.
    assert (done.stdout, done.stderr) == ("the end\n", "")
    return heard(tmp_path)


@pytest.mark.parametrize(("word", "status"), [("run", 1), ("exit", 3), ("usage", 2)])
def test_a_whole_run_is_heard_in_order(
    agent: ModuleType, tmp_path: Path, word: str, status: int
) -> None:
    events = run_agent(tmp_path, [word, "--quiet"], [])
    stages = [e.fields["stage"] for e in events if isinstance(e, Message) and "stage" in e.fields]
    assert stages == ["booted", "ready", "awake", "running"]
    rest = events[len(stages) :]
    lines = [event.text for event in rest if isinstance(event, Line)]
    assert lines == [f"ran {word} --quiet {{}}", "a child", "to stderr", "no newline"]
    assert rest[len(lines) :] == [
        ReceivedFile("a.bin", b"\x1e\0"),
        ReceivedFile("evidence.json", b"{}\n"),
        Message({"end": status}),
    ]
    assert (tmp_path / "stops").read_text().split() == ["breakpoint", "breakpoint", "end"]


def test_a_job_s_commands_have_its_environment(agent: ModuleType, tmp_path: Path) -> None:
    events = run_agent(tmp_path, ["run"], [["sh", "-c", 'test "$KVMTEST_LAB" = "{}"']])
    assert events[-1] == Message({"end": 1})


def test_a_job_whose_commands_fail_does_not_run_nor_end_the_machine(
    agent: ModuleType, tmp_path: Path
) -> None:
    events = run_agent(tmp_path, ["run"], [["false"]])
    assert events[-1] == Message({"failed": "false: status 1"})
    assert (tmp_path / "stops").read_text().split() == ["breakpoint", "breakpoint"]


def test_the_agent_imports_nothing_of_kvmtest_before_it_has_come() -> None:
    script = "import runpy, sys; runpy.run_path(sys.argv[1]); print([m for m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, AGENT], capture_output=True, text=True, check=True
    )
    assert "'kvmtest" not in done.stdout
    assert "'tarfile'" in done.stdout
