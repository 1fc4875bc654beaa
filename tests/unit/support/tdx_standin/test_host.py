"""The files that answer: the knob and the MSRs, the kernel log, kprobes and their hits."""

import errno
import os
from pathlib import Path

import pytest
from support.stand_in import KMSG, KNOB
from support.tdx_standin.host import (
    CLEAR,
    TDX_VCPU_RUN,
    TRACING,
    VMX_VCPU_RUN,
    Device,
    Host,
    Opened,
    tdx_host,
)

from kvmtest.checks.preconditions import PRECONDITIONS
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import parse_record, troubles
from kvmtest.host.observe.trace import parse_hits

BIT = 1 << 14
INSTANCE = f"{TRACING}/instances/kvmtest-entry"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tdx_host(tmp_path / "host", 2), 2)


def device(host: Host, path: str) -> Device:
    found = host.device(path)
    assert found
    return found


def test_it_has_what_the_properties_of_tdx_need(host: Host) -> None:
    machine = Machine(host.tree)
    needs = ("kvm-intel", "tdx", "knob", "btf", "run-flags")
    assert [PRECONDITIONS[need](machine) for need in needs] == [None] * len(needs)


def debugctl(host: Host, cpu: int) -> int:
    msr = device(host, f"/dev/cpu/{cpu}/msr")
    data = msr.read(Opened(msr), 8, 0x1D9)
    assert isinstance(data, bytes)
    return int.from_bytes(data, "little")


def test_a_write_of_the_knob_reaches_the_msr_of_every_cpu(host: Host) -> None:
    knob = device(host, KNOB)
    assert [debugctl(host, cpu) for cpu in (0, 1)] == [BIT, BIT]
    assert knob.write(b"0\n", None) == 2
    assert [debugctl(host, cpu) for cpu in (0, 1)] == [0, 0]
    assert knob.read(Opened(knob), 100, None) == b"0\n"


def test_a_write_of_the_same_value_sends_no_ipis(host: Host) -> None:
    host.set_bit(1, 0)
    device(host, KNOB).write(b"1", None)
    assert [host.bit(cpu) for cpu in (0, 1)] == [1, 0]


@pytest.mark.parametrize("data", [b"2", b"", b"-1", b"on"])
def test_the_knob_takes_no_other_value(host: Host, data: bytes) -> None:
    assert device(host, KNOB).write(data, None) == -errno.EINVAL
    assert host.knob == 1


def test_the_knob_is_read_once_to_its_end(host: Host) -> None:
    knob = device(host, KNOB)
    opened = Opened(knob)
    assert [knob.read(opened, 1, None) for _ in range(3)] == [b"1", b"\n", b""]


def test_an_msr_that_the_cpu_lacks_is_an_error(host: Host) -> None:
    msr = device(host, "/dev/cpu/0/msr")
    assert msr.read(Opened(msr), 8, 0x9999) == -errno.EIO
    assert msr.read(Opened(msr), 7, 0x1D9) == -errno.EINVAL
    assert host.device("/dev/cpu/2/msr") is None


def test_the_log_gives_back_what_was_written_a_record_a_read(host: Host) -> None:
    log = device(host, KMSG)
    opened = Opened(log)
    host.log("before")
    log.seek(opened, 0, os.SEEK_END)
    assert log.read(opened, 8192, None) == -errno.EAGAIN
    assert log.write(b"<6>mine\n", None) == 8
    host.log("the kernel's")
    records = [log.read(opened, 8192, None) for _ in range(2)]
    first, second = (parse_record(each) for each in records if isinstance(each, bytes))
    assert (first.message, first.level, first.is_from_kernel) == ("mine", 6, False)
    assert (second.message, second.is_from_kernel) == ("the kernel's", True)


def test_a_warning_is_one_trouble_of_kvms(host: Host) -> None:
    for _ in range(2):
        host.warn_on_once(TDX_VCPU_RUN, 1, 1234)
    (trouble,) = troubles(parse_record(record) for record in host.records)
    assert trouble.kind == "warning"
    assert TDX_VCPU_RUN in trouble.headline
    device(host, CLEAR).write(b"1\n", None)
    host.warn_on_once(TDX_VCPU_RUN, 1, 1234)
    assert len(troubles(parse_record(record) for record in host.records)) == 2


def place(host: Host, line: str) -> int:
    return device(host, f"{TRACING}/kprobe_events").write(line.encode() + b"\n", None)


def enable(host: Host, instance: str = INSTANCE, tasks: str = "") -> None:
    host.tree.path(f"{instance}/set_event_pid").write_text(tasks)
    host.tree.path(f"{instance}/events/kvmtest/entry/enable").write_text("1\n")


def hits(host: Host) -> str:
    pipe = device(host, f"{INSTANCE}/trace_pipe")
    data = pipe.read(Opened(pipe), 1 << 16, None)
    return data.decode() if isinstance(data, bytes) else ""


def make_instance(host: Host) -> None:
    host.tree.path(INSTANCE).mkdir()
    host.made_directory(INSTANCE)


def test_a_probe_has_a_hit_for_each_call(host: Host) -> None:
    assert place(host, f"p:kvmtest/entry kvm_intel:{TDX_VCPU_RUN} flags=%si:x64") > 0
    make_instance(host)
    host.hit(TDX_VCPU_RUN, os.getpid(), 1, 4)
    enable(host)
    host.hit(VMX_VCPU_RUN, os.getpid(), 1, 4)
    host.hit(TDX_VCPU_RUN, os.getpid(), 1, 4)
    (hit,) = parse_hits(hits(host), "entry").hits
    assert (hit.pid, hit.cpu, hit.symbol, hit.values) == (
        os.getpid(),
        1,
        TDX_VCPU_RUN,
        {"flags": 4},
    )
    assert hits(host) == ""


def test_a_probe_follows_the_tasks_that_are_named(host: Host) -> None:
    make_instance(host)
    place(host, f"p:kvmtest/entry {TDX_VCPU_RUN} flags=%si:x64")
    enable(host, tasks="1")
    host.hit(TDX_VCPU_RUN, os.getpid(), 0, 0)
    assert hits(host) == ""


@pytest.mark.parametrize("line", ["p:kvmtest/entry no_such_function", "p:entry", "-:kvmtest/none"])
def test_a_probe_that_can_not_be_is_refused(host: Host, line: str) -> None:
    assert place(host, line) < 0
    assert not host.probes


def test_an_instance_goes_with_its_files(host: Host) -> None:
    make_instance(host)
    host.removes_directory(INSTANCE)
    host.tree.path(INSTANCE).rmdir()
    assert host.device(f"{INSTANCE}/trace_pipe") is None
    assert place(host, f"p:kvmtest/entry {TDX_VCPU_RUN}") > 0
    assert place(host, "-:kvmtest/entry") > 0
    assert not host.probes
