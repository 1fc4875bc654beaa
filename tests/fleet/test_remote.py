"""fleet/remote.py on real hosts: a run outlives its connection, and no host is believed unseen."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.hosts import Hosts, NamespacedHost
from support.long_tests import takes_long

from kvmtest.errors import UsageError
from kvmtest.evidence.file import loads
from kvmtest.fleet.host import HostLost
from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.remote import FOLDER, RemoteTarget
from kvmtest.host.changes.journal.record import BOOT_ID, RECORD, Entry, Header, encode
from kvmtest.target import Job, TargetFailed

BTF = "kernel.fix-present"
RESTORE_S = 60.0


class Fleet:
    """Targets on the hosts, with what they said."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.steps: list[str] = []
        self.used: set[str] = set()

    def shell(self, name: str) -> OpenSsh:
        self.used.add(name)
        # A lost connection is noticed in three seconds.
        return OpenSsh(name, config=self.hosts.ssh_config, connect_s=3, alive_s=1)

    def target(self, name: str) -> RemoteTarget:
        return RemoteTarget(self.shell(name), self.steps.append)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of these tests' own: a bundle is made once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVMTEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fleet(hosts: Hosts) -> Iterator[Fleet]:
    fleet = Fleet(hosts)
    yield fleet
    for name in sorted(fleet.used):
        host = hosts[name]
        host.plug_cable()
        host.on()
        host.await_ssh()
        fleet.target(name).restore(RESTORE_S)


class Waiting:
    """A job that waits on its host, before kvmtest runs, for the test to let it go on."""

    def __init__(self, host: NamespacedHost) -> None:
        self._host = host
        folder = host.run("sh", "-c", "cd $(mktemp -d -p /root) && mkfifo began go && pwd")
        self._folder = folder.stdout.strip()
        script = f"cd {self._folder}; echo >began; read -r _ <go; echo ran >>runs"
        self.commands = [["sh", "-c", script]]

    def await_begun(self) -> None:
        self._host.run("cat", f"{self._folder}/began")

    def go_on(self) -> None:
        self._host.run("sh", "-c", f"echo >{self._folder}/go")

    @property
    def runs(self) -> int:
        """How often the job ran."""
        return self._host.run("cat", f"{self._folder}/runs").stdout.count("ran")


def in_background(do: Callable[[], Any]) -> Callable[[], Any]:
    """Call a function in a thread; return a function that waits for what it returns or raises."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append((do(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(120)
        assert results, "it did not end"
        ((value, error),) = results
        if error:
            raise error
        return value

    return result


def at_work(
    target: RemoteTarget, host: NamespacedHost, **job: Any
) -> tuple[Waiting, Callable[[], Any]]:
    """Have a host begin a job; return when it waits there, with what waits for its outcome."""
    waiting = Waiting(host)
    wanted = Job(["--only", BTF], commands=waiting.commands, **job)
    outcome = in_background(lambda: target.run(wanted))
    waiting.await_begun()
    return waiting, outcome


def test_a_host_runs_what_it_never_had(fleet: Fleet) -> None:
    outcome = fleet.target("host1").run(Job(["--only", BTF], id="one"))
    assert outcome.exit_status == 0
    (result,) = outcome.evidence.results
    assert (result.id, result.verdict) == (BTF, "PASS")
    assert set(outcome.files) == {"evidence.json", "kernel.log"}
    assert loads(outcome.files["evidence.json"].decode(), Path()) == outcome.evidence
    assert outcome.evidence.kvmtest.command[-2:] == ["--only", BTF]
    first, second = fleet.steps
    assert first.startswith("host1: bringing kvmtest (")
    assert second == "host1: running"


def test_kvmtest_is_brought_once_and_a_job_runs_once(fleet: Fleet) -> None:
    first = fleet.target("host1").run(Job(["--only", BTF], id="one"))
    second = fleet.target("host1").run(Job(["--only", BTF], id="one"))
    assert (first.exit_status, second.exit_status) == (0, 0)
    assert first.files["evidence.json"] == second.files["evidence.json"]
    other = fleet.target("host1").run(Job(["--only", BTF], id="two"))
    assert other.files["evidence.json"] != first.files["evidence.json"]
    assert sum("bringing" in step for step in fleet.steps) == 1


def test_a_host_is_left_as_it_was(fleet: Fleet) -> None:
    target = fleet.target("host1")
    target.run(Job(["--only", BTF]))
    target.restore(RESTORE_S)
    assert fleet.hosts["host1"].run("find", "/var/lib/kvmtest", "-mindepth", "1").stdout == ""
    target.restore(RESTORE_S)


def test_a_run_outlives_its_connection(fleet: Fleet) -> None:
    host = fleet.hosts["host2"]
    waiting, outcome = at_work(fleet.target("host2"), host, id="outlives")
    host.run("sh", "-c", "pkill -KILL -f 'sshd: root@notty'", check=False)
    waiting.go_on()
    assert outcome().exit_status == 0
    assert waiting.runs == 1


def test_a_network_that_is_away_for_a_while_is_waited_for(fleet: Fleet) -> None:
    host = fleet.hosts["host3"]
    shell = fleet.shell("host3")
    lost = threading.Event()

    class Noticing(OpenSsh):
        def run(self, words: Sequence[str], *given: Any, **more: Any) -> Any:
            try:
                return super().run(words, *given, **more)
            except Exception:
                lost.set()
                raise

    noticing = Noticing(shell.host, config=shell.config, connect_s=3, alive_s=1)
    waiting, outcome = at_work(RemoteTarget(noticing, fleet.steps.append), host, id="away")
    host.pull_cable()
    assert lost.wait(60)
    host.plug_cable()
    host.await_ssh()
    waiting.go_on()
    assert outcome().exit_status == 0
    assert waiting.runs == 1


ASK = """
import sys
from pathlib import Path
from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.remote import RemoteTarget
from kvmtest.target import Job
config, host, *command = sys.argv[1:]
shell = OpenSsh(host, config=Path(config))
job = Job(["--only", "kernel.fix-present"], commands=[command], id="asked")
RemoteTarget(shell, print).run(job)
"""


def test_a_job_is_taken_up_after_whoever_asked_was_killed(fleet: Fleet) -> None:
    waiting = Waiting(fleet.hosts["host4"])
    words = [sys.executable, "-c", ASK, str(fleet.hosts.ssh_config), "host4", *waiting.commands[0]]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as asking:
        waiting.await_begun()
        asking.kill()
    job = Job(["--only", BTF], commands=waiting.commands, id="asked")
    outcome = in_background(lambda: fleet.target("host4").run(job))
    waiting.go_on()
    assert outcome().exit_status == 0
    assert waiting.runs == 1


def test_a_host_that_restarts_amid_a_run_is_told(fleet: Fleet) -> None:
    host = fleet.hosts["host5"]
    _, outcome = at_work(fleet.target("host5"), host, id="restarts")
    host.cycle()
    with pytest.raises(TargetFailed, match=r"^host5: the run died amid its work: the host was"):
        outcome()


def test_a_host_whose_run_was_killed_is_restored(fleet: Fleet) -> None:
    host = fleet.hosts["host5"]
    _, outcome = at_work(fleet.target("host5"), host, id="killed")
    # As a run writes it before it changes anything.
    boot_id = host.run("cat", BOOT_ID).stdout.strip()
    header = Header(pid=1 << 21, start=1, boot_id=boot_id, time="2026-11-30", command="run")
    undo = {"path": "/root/knob", "text": "as found"}
    record = encode(header) + encode(Entry(1, "write to /root/knob", "write", undo))
    host.run("sh", "-c", f"mkdir -p $(dirname {RECORD}); cat >{RECORD}", given=record.decode())
    host.run(
        "sh",
        "-c",
        "echo changed >/root/knob; pkill -KILL -f '[f]leet.unit work'; pkill -f '[r]ead -r _ <go'",
    )
    with pytest.raises(TargetFailed, match=r"^host5: the run died amid its work: it was killed$"):
        outcome()
    assert host.run("cat", "/root/knob").stdout == "as found\n"
    assert host.run("find", RECORD, check=False).stdout == ""


@takes_long
def test_a_host_that_stays_away_is_lost(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmtest.fleet.remote._LATE_S", 1.0)
    host = fleet.hosts["host5"]
    _, outcome = at_work(fleet.target("host5"), host, id="stays away", deadline=10)
    host.off()
    with pytest.raises(HostLost, match=r"^host5: .*\(its time was up\)$"):
        outcome()


def test_a_restoration_ends_what_is_at_work(fleet: Fleet) -> None:
    _, outcome = at_work(fleet.target("host6"), fleet.hosts["host6"], id="at work")
    fleet.target("host6").restore(RESTORE_S)
    with pytest.raises(TargetFailed, match=r"^host6: "):
        outcome()
    assert fleet.hosts["host6"].run("ls", "/var/lib/kvmtest").stdout == ""


def test_a_command_that_fails_is_told(fleet: Fleet) -> None:
    job = Job(["--only", BTF], commands=[["modprobe", "no-such"]])
    with pytest.raises(TargetFailed, match="failed: the command `modprobe no-such` ended with"):
        fleet.target("host1").run(job)


def test_a_run_that_is_refused_is_told_in_kvmtest_s_words(fleet: Fleet) -> None:
    with pytest.raises(TargetFailed, match=r"status 2 and left no evidence: .*no-such"):
        fleet.target("host1").run(Job(["--only", "no-such"]))


def test_a_job_for_the_lab_alone_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match=r"^host1: a lab machine alone loads modules"):
        fleet.target("host1").run(Job(parameters=["kvm.x=1"]))


# A host may do as it likes: its kvmtest writes other things where the evidence should be.
HOSTILE = """
import os, subprocess, sys
os.makedirs(sys.argv[4])
subprocess.run(["sh", "-c", {script!r}], cwd=sys.argv[4], check=True)
"""
REFUSED = {
    "head -c 40000000 /dev/zero >evidence.json": "it sent more than 33554432 bytes",
    "ln -s /dev/zero evidence.json": "it sent more than 33554432 bytes",
    "ln -s /etc/passwd evidence.json": "not JSON, or cut short",
    "mkdir evidence.json": "left no evidence",
    "echo '{}' >evidence.json": "it has no schema",
    "printf '\"\\033[31m' >evidence.json": "not JSON",
    "printf '%0100000d' 0 | tr 0 '[' >evidence.json": "nested too deeply",
    'printf \'{"schema": "%010000000d"}\' 0 >evidence.json': "its schema is 000",
    ":": "left no evidence: it printed nothing",
    "printf %010000d 0": "left no evidence: 000",
    "printf '\\033]0;title\\a\\033[2J'": "left no evidence: \ufffd]0;title\ufffd\ufffd[2J",
}


@takes_long
def test_what_is_no_evidence_is_refused_in_one_line(fleet: Fleet) -> None:
    host, target = fleet.hosts["host6"], fleet.target("host6")
    target.run(Job(["--only", BTF]))
    main = host.run("sh", "-c", f"ls {FOLDER}/bundle-*/lib/kvmtest/__main__.py").stdout.strip()
    host.run("cp", main, f"{main}.own")
    for script, message in REFUSED.items():
        text = HOSTILE.format(script=script)
        host.run("sh", "-c", f"printf %s {shlex.quote(text)} >{main}")
        with pytest.raises(TargetFailed) as failed:
            target.run(Job(["--only", BTF]))
        said = str(failed.value)
        assert message in said
        assert said.isprintable()
        assert len(said) < 400
    host.run("mv", f"{main}.own", main)


def test_a_disk_that_is_full_is_told_in_one_line(fleet: Fleet) -> None:
    host = fleet.hosts["host7"]
    host.run("sh", "-c", "head -c 60000000 /dev/zero >/var/tmp/filled", check=False)
    with pytest.raises(TargetFailed) as failed:
        fleet.target("host7").run(Job(["--only", BTF]))
    # What it left of ours goes, although there is no room for kvmtest, which could undo a run.
    fleet.target("host7").restore(RESTORE_S)
    assert host.run("find", "/var/lib/kvmtest", "-mindepth", "1").stdout == ""
    host.run("rm", "/var/tmp/filled")
    assert "No space left on device; free some space there" in str(failed.value)
    assert "\n" not in str(failed.value)
    # Once there is space, the same target goes on.
    assert fleet.target("host7").run(Job(["--only", BTF])).exit_status == 0


def test_a_disk_that_is_full_by_the_end_is_told_in_one_line(fleet: Fleet) -> None:
    host = fleet.hosts["host7"]
    fill = ["sh", "-c", "head -c 60000000 /dev/zero >/var/tmp/filled; :"]
    with pytest.raises(TargetFailed) as failed:
        fleet.target("host7").run(Job(["--only", BTF], commands=[fill]))
    host.run("rm", "/var/tmp/filled")
    assert "No space left on device" in str(failed.value)
