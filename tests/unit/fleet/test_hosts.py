"""kvmtest/fleet/hosts.py: each host of a plan is opened in its way."""

from pathlib import Path

import pytest

from kvmtest.fleet.hosts import opening
from kvmtest.fleet.lab_host import LabHost
from kvmtest.fleet.labgrid.places import CoordinatorAway
from kvmtest.fleet.plan import parse
from kvmtest.fleet.shell_host import ShellHost
from kvmtest.fleet.tasks import lanes

PLAN = """\
coordinator: 127.0.0.1:1
ssh_config: config
hosts:
  emulated: {lab: amd, cpus: 1}
  metal: {ssh: root@metal.example, boot: kexec}
  place: {place: there}
  any: {reserve: {cpu: spr}}
runs: [{repeat: REPEAT}]
"""


def opened(name: str, repeat: int = 1) -> object:
    plan = parse(PLAN.replace("REPEAT", str(repeat)), Path("/plans/plan.yaml"))
    (lane,) = (lane for lane in lanes(plan) if lane.host.name == name)
    with opening(plan, lane, lambda _: None, token="token")() as host:
        return host


def test_a_lab_machine_is_saved_where_several_runs_need_it() -> None:
    once, often = opened("emulated"), opened("emulated", 2)
    assert isinstance(once, LabHost)
    assert isinstance(often, LabHost)
    assert (once.options.machine, once.options.cpus) == ("amd", 1)
    assert (once.options.cold, often.options.cold) == (True, False)


def test_a_host_by_ssh_is_one_over_a_shell() -> None:
    host = opened("metal")
    assert isinstance(host, ShellHost)
    assert host.owner == "token.metal"
    assert host.first == "kexec"


@pytest.mark.parametrize("name", ["place", "any"])
def test_a_place_is_the_coordinator_s(name: str) -> None:
    with pytest.raises(CoordinatorAway, match=r"127\.0\.0\.1:1"):
        opened(name)
