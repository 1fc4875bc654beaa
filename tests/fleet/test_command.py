"""kvmtest fleet run on real hosts, by SSH and at places of labgrid's own coordinator."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import Hosts, NamespacedHost
from support.labgrid_service import Labgrid, labgrid

from kvmtest.evidence import load
from kvmtest.fleet.host import PlannedKernel
from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.shell_host import ShellHost

PLAN = """
ssh_config: {config}
hosts:
  one: {{ssh: root@host1}}
  two: {{ssh: root@{address}}}
runs:
- options: --only kernel.fix-present
  boot_deadline: 60s
  deadline: 60s
  retries: 0
"""


@pytest.fixture
def plan(hosts: Hosts, tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(config=hosts.ssh_config, address=hosts["host2"].address))
    return path


def fleet(*words: object, cache: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kvmtest", "fleet", *map(str, words)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "KVMTEST_CACHE": str(cache)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def left_on(host: NamespacedHost) -> str:
    return host.run("ls", "-A", "/var/lib/kvmtest").stdout


def test_a_plan_runs_on_hosts_by_ssh(plan: Path, hosts: Hosts, cache: Path, tmp_path: Path) -> None:
    done = fleet("run", plan, "-o", tmp_path / "results", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("one", "two"):
        evidence = load(tmp_path / "results" / name / "own" / "1")
        assert [(each.id, each.verdict) for each in evidence.results] == [
            ("kernel.fix-present", "PASS")
        ]
    assert left_on(hosts["host1"]) == left_on(hosts["host2"]) == ""


@pytest.fixture
def taken(hosts: Hosts, cache: Path) -> Iterator[None]:
    """Another fleet has host1."""
    host = ShellHost("host1", OpenSsh("host1", config=hosts.ssh_config), print, owner="another")
    host.boot(PlannedKernel("own"), 60)
    yield
    host.restore(60)
    assert left_on(hosts["host1"]) == ""


@pytest.mark.usefixtures("taken")
def test_a_host_that_another_fleet_has_is_left_alone(
    plan: Path, cache: Path, tmp_path: Path
) -> None:
    done = fleet("run", plan, "-o", tmp_path / "results", cache=cache)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "another fleet has it" in said
    assert load(tmp_path / "results" / "two" / "own" / "1")


PLACES = """
ssh_config: {config}
coordinator: {address}
hosts:
  board: {{place: host3}}
  any: {{reserve: {{cpu: milan}}}}
runs:
- options: --only kernel.fix-present
  boot_deadline: 60s
  deadline: 60s
  retries: 0
"""


@pytest.fixture
def service(hosts: Hosts, tmp_path: Path) -> Iterator[Labgrid]:
    tags = {"host3": {"cpu": "spr"}, "host4": {"cpu": "milan"}}
    with labgrid(tmp_path / "labgrid", hosts, tags) as service:
        yield service


def test_a_plan_runs_at_places(service: Labgrid, hosts: Hosts, cache: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLACES.format(config=hosts.ssh_config, address=service.address))
    done = fleet("run", plan, "-o", tmp_path / "results", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("board", "any"):
        assert load(tmp_path / "results" / name / "own" / "1").results[0].verdict == "PASS"
    assert left_on(hosts["host3"]) == left_on(hosts["host4"]) == ""
