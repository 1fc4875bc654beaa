"""A fleet on real hosts that fail: what can be done is done, what can't be is said."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.hosts import Hosts, NamespacedHost
from support.hosts.gate import gate
from support.kernel_files import RELEASE, deb, tree_files
from support.labgrid_service import Labgrid, labgrid
from support.long_tests import takes_long
from support.sigkill import children, kill_together

from kvmtest.evidence.file import load
from kvmtest.fleet.course import Boot, Ended, Ending, Restore, Resumed, Run
from kvmtest.fleet.ledger import LEDGER, Entry, entries

#: kvmtest, which waits five seconds for a host that is away when its run's time is up.
KVMTEST = """
import sys
from kvmtest.__main__ import main
from kvmtest.fleet import remote
remote._LATE_S = 5.0
sys.exit(main())
"""
#: Seconds for a fleet of two hosts, on a busy machine.
PATIENCE_S = 240
PASS, LOST = 0, 3


@dataclass
class Fleet:
    """A fleet's command and its results; what the host prints is in a file."""

    folder: Path
    hosts: Hosts
    environment: Mapping[str, str]
    process: subprocess.Popen | None = None

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def start(self, plan: Mapping[str, Any]) -> None:
        """Start a plan."""
        self.folder.mkdir()
        text = yaml.safe_dump({"ssh_config": str(self.hosts.ssh_config), **plan}, sort_keys=False)
        (self.folder / "plan.yaml").write_text(text)
        self._start("run", str(self.folder / "plan.yaml"), "-o", str(self.results))

    def resume(self) -> int:
        """Go on with the plan to its end; return the exit status."""
        self.start_resume()
        return self.status()

    def start_resume(self) -> None:
        self._start("resume", str(self.results))

    def _start(self, *words: str) -> None:
        with (self.folder / "printed").open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", KVMTEST, "fleet", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the command and the processes of its hosts."""
        kill_together([self.process.pid, *children(self.process.pid)])
        self.process.wait()

    def status(self) -> int:
        """Wait for the end; return the exit status."""
        return self.process.wait(PATIENCE_S)

    def await_that(self, condition: Callable[[], object]) -> None:
        """Return when something is so, while the fleet is at work."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < end, self.printed
            time.sleep(0.05)

    def ledger(self, host: str) -> list[Entry]:
        return entries(self.results / host / LEDGER)

    def facts(self, host: str) -> list[object]:
        """Return what the host's ledger says, without the exit statuses of runs."""
        return [
            Ended(entry.fact.ending, entry.fact.why)
            if isinstance(entry.fact, Ended)
            else entry.fact
            for entry in self.ledger(host)
        ]

    def ending(self, host: str) -> Ending:
        """Return how the host's last step ended."""
        (*_, last) = self.facts(host)
        assert isinstance(last, Ended)
        return last.ending

    def has_evidence(self, host: str, kernel: str = "own") -> bool:
        file = self.results / host / kernel / "1/evidence.json"
        return file.exists() and load(file).exit_status == 0

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def fleet(hosts: Hosts, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "fleet", hosts, hosts.environment)
    yield fleet
    fleet.end()


@pytest.fixture
def service(hosts: Hosts, tmp_path: Path) -> Iterator[Labgrid]:
    with labgrid(tmp_path / "labgrid", hosts) as service:
        yield service


def by_ssh(*names: str, **run: Any) -> dict[str, Any]:
    return {
        "hosts": {name: {"ssh": f"root@{name}"} for name in names},
        "runs": [{"hosts": list(names), "require": ["guest.rdmsr-hides"], **run}],
    }


def repair(host: NamespacedHost) -> None:
    """Have a host boot again what it is told to, and switch it on."""
    host.mend()
    host.on()
    host.await_ssh()


def is_waited_for(host: NamespacedHost) -> bool:
    """Tell whether a fleet waits for the end of a run that has begun."""
    return host.run("pgrep", "-f", "[f]leet.unit wait", check=False).returncode == 0


def assert_as_it_was(host: NamespacedHost) -> None:
    """Nothing of a fleet is on the host."""
    folders = ("/var/lib/kvmtest", "/boot/kvmtest", f"/lib/modules/{RELEASE}")
    assert host.run("find", *folders, "-mindepth", "1", check=False).stdout == ""
    assert host.run("pgrep", "-l", "python", check=False).stdout == ""


WHOLE = [Boot("own"), Ended(Ending.DONE), Run("own", 1), Ended(Ending.DONE), Restore(),
         Ended(Ending.DONE)]  # fmt: skip


def test_a_run_goes_on_while_its_connection_is_lost(fleet: Fleet, hosts: Hosts) -> None:
    host = hosts["host1"]
    with gate(host) as closed:
        fleet.start(by_ssh("host1", "host2"))
        closed.await_run()
        # The connection over which the fleet waits, not the one by which it began the run.
        fleet.await_that(lambda: is_waited_for(host))
        host.lose_connections()
        closed.let_pass()
        # It comes back when the others have long been ready.
        fleet.await_that(lambda: fleet.has_evidence("host2"))
        assert not fleet.has_evidence("host1")
        host.plug_cable()
        assert fleet.status() == PASS, fleet.printed
    assert fleet.has_evidence("host1")
    assert fleet.facts("host1") == WHOLE
    assert_as_it_was(host)


def test_a_killed_fleet_takes_up_the_run_that_is_at_work(fleet: Fleet, hosts: Hosts) -> None:
    host = hosts["host1"]
    with gate(host) as closed:
        fleet.start(by_ssh("host1"))
        closed.await_run()
        fleet.kill()
        host.run("pkill", "-f", "[f]leet.unit wait", check=False)
        fleet.start_resume()
        fleet.await_that(lambda: is_waited_for(host))
        assert not closed.has_come
        closed.let_pass()
        assert fleet.status() == PASS, fleet.printed
    assert fleet.facts("host1") == [*WHOLE[:3], Resumed(), *WHOLE]
    assert fleet.has_evidence("host1")
    assert_as_it_was(host)


def test_a_host_is_put_back_where_its_fleet_s_command_is_killed(fleet: Fleet, hosts: Hosts) -> None:
    host = hosts["host1"]
    with gate(host) as closed:
        fleet.start(by_ssh("host1"))
        closed.await_run()
        fleet.process.kill()
        fleet.process.wait()
        # The next one waits for the processes of the first one's hosts.
        fleet.start_resume()
        closed.await_run()
        closed.let_pass()
        assert fleet.status() == PASS, fleet.printed
    stopped = [*WHOLE[:3], Ended(Ending.STOPPED), *WHOLE[4:]]
    assert fleet.facts("host1") == [*stopped, Resumed(), *WHOLE[:2], Run("own", 1, 1), *WHOLE[3:]]
    assert_as_it_was(host)


@takes_long
def test_a_host_that_stays_away_is_lost_and_the_others_go_on(fleet: Fleet, hosts: Hosts) -> None:
    host = hosts["host3"]
    with gate(host) as closed:
        fleet.start(by_ssh("host3", "host4", deadline=5, boot_deadline=10))
        closed.await_run()
        host.off()
        assert fleet.status() == LOST, fleet.printed
        assert fleet.has_evidence("host4")
        assert not fleet.has_evidence("host3")
        assert fleet.ending("host3") is Ending.LOST
        assert "LOST: host3" in fleet.printed.replace("root@", "")
        page = (fleet.results / "matrix.html").read_text()
        assert "host3" in page
        host.on()
        host.await_ssh()
        closed.open()
    # Once it is there again, the fleet is completed: what was at work is restored first.
    assert fleet.resume() == PASS, fleet.printed
    assert fleet.has_evidence("host3")
    assert_as_it_was(host)


@pytest.fixture
def other_kernel(tmp_path: Path) -> dict[str, Any]:
    """A kernel of a plan: a small package that host8 pretends to boot."""
    path = tmp_path / "linux-image-test.deb"
    deb(path, tree_files())
    return {"deb": [str(path)]}


def two_kernels(other: dict[str, Any], boot_deadline: int = 120) -> dict[str, Any]:
    plan = by_ssh("host8", boot_deadline=boot_deadline)
    return {**plan, "kernels": {"own": {"own": True}, "other": other}}


@takes_long
def test_a_host_boots_a_kernel_once_and_is_put_back(
    fleet: Fleet, hosts: Hosts, other_kernel: dict[str, Any]
) -> None:
    own = hosts["host8"].run("uname", "-r").stdout
    fleet.start(two_kernels(other_kernel))
    assert fleet.status() == PASS, fleet.printed
    evidence = load(fleet.results / "host8/other/1/evidence.json")
    assert evidence.kernel.release == RELEASE
    assert hosts["host8"].run("uname", "-r").stdout == own
    assert_as_it_was(hosts["host8"])


@takes_long
def test_another_kernel_than_the_one_asked_for_gives_no_evidence(
    fleet: Fleet, hosts: Hosts, other_kernel: dict[str, Any]
) -> None:
    host = hosts["host8"]
    host.boot_the_default_alone()
    try:
        fleet.start(two_kernels(other_kernel))
        assert fleet.status() == LOST, fleet.printed
    finally:
        repair(host)
    assert fleet.has_evidence("host8")
    assert not fleet.has_evidence("host8", "other")
    (why,) = {fact.why for fact in fleet.facts("host8") if isinstance(fact, Ended) and fact.why}
    assert "runs there after the reboot into" in why
    assert_as_it_was(host)


@takes_long
def test_a_host_that_does_not_come_back_from_a_reboot_is_lost(
    fleet: Fleet, hosts: Hosts, other_kernel: dict[str, Any]
) -> None:
    host = hosts["host8"]
    host.refuse_reboots()
    try:
        fleet.start(two_kernels(other_kernel, boot_deadline=15))
        assert fleet.status() == LOST, fleet.printed
    finally:
        repair(host)
    assert fleet.has_evidence("host8")
    # Both its boot and its restoration.
    endings = [fact.ending for fact in fleet.facts("host8") if isinstance(fact, Ended)]
    assert endings[-2:] == [Ending.LOST, Ending.LOST]
    # Power back: the boot was for once, so this is its own kernel, and the fleet is completed.
    assert fleet.resume() == PASS, fleet.printed
    assert_as_it_was(host)


def test_a_full_disk_is_said_in_one_line(fleet: Fleet, hosts: Hosts) -> None:
    host = hosts["host7"]
    host.run("sh", "-c", "cat /dev/zero >/var/tmp/filled", check=False)
    fleet.start(by_ssh("host7", "host6", retries=0))
    status = fleet.status()
    host.run("rm", "/var/tmp/filled")
    assert status == LOST, fleet.printed
    assert "No space left on device" in fleet.printed
    assert fleet.has_evidence("host6")
    assert_as_it_was(host)
    assert fleet.resume() == PASS, fleet.printed


def test_the_coordinator_may_be_restarted_amid_a_run(
    fleet: Fleet, hosts: Hosts, service: Labgrid
) -> None:
    with gate(hosts["host5"]) as closed:
        fleet.start(at_place("host5", service))
        closed.await_run()
        service.kill_coordinator()
        service.start_coordinator()
        service.start_exporters()
        closed.let_pass()
        assert fleet.status() == PASS, fleet.printed
    assert fleet.facts("first") == WHOLE
    assert "acquired: None" in service.client("-p", "host5", "show").stdout


def test_two_plans_that_want_one_place_get_it_in_turn(
    fleet: Fleet, hosts: Hosts, service: Labgrid, tmp_path: Path
) -> None:
    other = Fleet(tmp_path / "other", hosts, hosts.environment)
    try:
        with gate(hosts["host5"]) as closed:
            fleet.start(at_place("host5", service))
            closed.await_run()
            other.start(at_place("host5", service))
            other.await_that(lambda: other.ledger("first"))
            closed.let_pass()
            assert (fleet.status(), other.status()) == (PASS, PASS), fleet.printed + other.printed
    finally:
        other.end()
    # The other asked while the first had the place, and got it afterwards.
    asked, got = other.ledger("first")[:2]
    assert asked.at < fleet.ledger("first")[-1].at < got.at
    assert fleet.facts("first") == other.facts("first") == WHOLE


def at_place(name: str, service: Labgrid) -> dict[str, Any]:
    plan = by_ssh(name)
    return {
        **plan,
        "coordinator": service.address,
        "hosts": {"first": {"place": name}},
        "runs": [{**plan["runs"][0], "hosts": ["first"]}],
    }
