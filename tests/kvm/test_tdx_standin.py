"""The stand-in for KVM's TDX answers raw ioctls as KVM does, and runs a TD's code."""

import errno
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.raw_td import RESET_PAGE
from support.stand_in import PACKAGE, environment, need_kvm
from support.tdx_standin.measurement import Measurement
from support.under_tdx import SUPPORT, UnderTdx, under_tdx

PAGE = 4096
SHUTDOWN = 8

ANSWERS: dict[str, object] = {
    "types": 1,
    "guest_memfd": 1,
    "most vCPUs": os.cpu_count(),
    "capabilities": [0, 1 << 28, 0x2E7],
    "capabilities, no room": -errno.E2BIG,
    "hw_error": -errno.EINVAL,
    "no structure": -errno.EFAULT,
    "no such command": -errno.EINVAL,
    "undocumented": -errno.ENOTTY,
    "INIT_VM": 0,
    "DEBUG": -errno.EINVAL,
    "PERFMON": -errno.EINVAL,
    "SEPT_VE_DISABLE": 0,
    "reserved": -errno.EINVAL,
    "width": -errno.EINVAL,
    "INIT_VM twice": -errno.EINVAL,
    "vCPU before INIT_VM": -errno.EIO,
    "vCPU without irqchip": -errno.EINVAL,
    "INIT_VCPU without x2APIC": -errno.EINVAL,
    "INIT_VCPU twice": -errno.EINVAL,
    "page before INIT_VCPU": -errno.EINVAL,
    "page of no slot": -errno.EINVAL,
    "page not private": -errno.EINVAL,
    "unaligned source": -errno.EINVAL,
    # KVM has moved the structure's members on.
    "page twice": [0, PAGE, PAGE, 0, -errno.EEXIST],
    "FINALIZE before INIT_VM": -errno.EINVAL,
    "run before FINALIZE": -errno.EINVAL,
    "FINALIZE twice": -errno.EINVAL,
    "a guest_memfd mapped": [-errno.ENODEV, 0],
    # KVM_GET_MSRS reads none.
    "registers": [-errno.EINVAL, 0],
    "TDCALL in 32-bit mode": SHUTDOWN,
    "port I/O": SHUTDOWN,
    "ud2": SHUTDOWN,
    "a jump to nothing": SHUTDOWN,
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> UnderTdx:
    need_kvm()
    folder = tmp_path_factory.mktemp("raw")
    ran = under_tdx(sys.executable, "-m", "support.raw_td", folder=folder)
    assert ran.status == 0, ran.err
    return ran


@pytest.fixture(scope="module")
def answers(ran: UnderTdx) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(ran.out)
    assert answers.keys() == ANSWERS.keys()
    return answers


@pytest.mark.parametrize("name", ANSWERS)
def test_it_answers_as_kvm(answers: dict[str, Any], name: str) -> None:
    assert answers[name] == ANSWERS[name]


def test_it_says_why_a_td_died(ran: UnderTdx, answers: dict[str, Any]) -> None:
    reasons = [reason for td in ran.tds for reason in td["dead"] if reason]
    assert answers["ud2"] == SHUTDOWN
    assert [reason.partition(":")[0] for reason in reasons] == [
        "TDCALL outside of 64-bit mode at CPL 0",
        "an instruction that a TD has #VE for (port 0x10)",
    ]


def test_it_measures_what_was_added(ran: UnderTdx) -> None:
    expected = Measurement()
    expected.add_page(RESET_PAGE)
    expected.extend(RESET_PAGE, (bytes(PAGE - 16) + bytes.fromhex("0f0b")).ljust(PAGE, b"\0"))
    assert expected.value().hex() in {td["mrtd"] for td in ran.tds}


def test_a_killed_stand_in_takes_its_tracees_along(tmp_path: Path) -> None:
    need_kvm()
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    words = [sys.executable, "-m", "support.tdx_standin", "--", sys.executable, "-c", script]
    env = environment(PYTHONPATH=f"{PACKAGE.parent}:{SUPPORT.parent}")
    started = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=tmp_path, env=env)
    assert started.stdout
    pidfd = os.pidfd_open(int(started.stdout.readline()))
    started.kill()
    started.wait()
    started.stdout.close()
    poll = select.poll()
    poll.register(pidfd)
    assert poll.poll(10_000)
    os.close(pidfd)
