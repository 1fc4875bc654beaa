"""The stand-in itself: runs a command under it, to its end."""

import contextlib
import os
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmtest.interleave.tracer import (
    Executed,
    Exited,
    Gone,
    Killed,
    Stop,
    SyscallEntry,
    SyscallExit,
    Tracer,
)

from .calls import Call, Tracees
from .files import Files
from .host import Host, Lack, tdx_host
from .kvm import Kvm


@dataclass(frozen=True)
class Ended:
    """How a command ended under the stand-in, its TDs, and the host's bits 14 at the end."""

    status: int
    tds: list[dict[str, Any]]
    knob: int
    bits: list[int]


class StandIn:
    """A TDX host whose files are below ``root``, with ``faults``, and without what it lacks."""

    def __init__(
        self, root: Path, cpus: int, faults: Collection[str] = (), lack: Lack | None = None
    ) -> None:
        self._host = Host(tdx_host(root, cpus, lack), cpus, lack)
        self._kvm = Kvm(self._host, faults)
        self._files = Files(self._host)

    def run(self, command: Sequence[str]) -> Ended:
        """Run a command with all that it starts, until the last of them has ended."""
        with Tracer() as tracer:
            started = tracer.start(command)
            try:
                status = self._serve(started.pid, Tracees(tracer))
            except BaseException:
                # Let go, they would go on with the real host.
                for tid in tracer.tracees:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(tid, signal.SIGKILL)
                raise
        started.returncode = status
        tds = [self._told(number) for number in range(len(self._kvm.vms))]
        bits = [self._host.bit(cpu) for cpu in range(self._host.cpus)]
        return Ended(status, tds, self._host.knob, bits)

    def _serve(self, pid: int, tracees: Tracees) -> int:
        """Serve all tracees to their end, and return the exit status of the first."""
        status = 0
        while tracees.tracer.tracees:
            stop = tracees.next()
            if isinstance(stop, Exited | Killed):
                tracees.ended(stop.tid)
                if stop.tid == pid:
                    status = stop.status if isinstance(stop, Exited) else 128 + stop.signal
            with contextlib.suppress(Gone):
                self._take(stop, tracees)
        return status

    def _take(self, stop: Stop, tracees: Tracees) -> None:
        if isinstance(stop, SyscallEntry):
            if tracees.entered(stop):
                return
            call = Call(tracees, stop)
            if not self._kvm.enter(call) and not self._files.enter(call):
                tracees.tracer.resume(stop)
        elif isinstance(stop, SyscallExit):
            tracees.left(stop)
        else:
            if isinstance(stop, Executed):
                tracees.executed(stop.tid)
                self._files.executed(stop.tid)
                self._kvm.executed(stop.tid)
            tracees.tracer.resume(stop)

    def _told(self, number: int) -> dict[str, Any]:
        vm = self._kvm.vms[number]
        vcpus = [vcpu for vcpu in self._kvm.vcpus if vcpu.vm is vm]
        return {
            "attributes": vm.td.attributes,
            "xfam": vm.td.xfam,
            "state": vm.td.state.name,
            "mrtd": vm.td.mrtd.hex(),
            "pages": vm.td.added,
            "steps": [step._asdict() for step in vm.td.steps],
            "entries": [vcpu.entries.count for vcpu in vcpus],
            "tdcalls": [vcpu.running.tdcalls for vcpu in vcpus],
            "dead": [vcpu.running.dead for vcpu in vcpus],
        }
