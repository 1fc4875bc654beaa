"""A fleet on one machine: ``make fleet-demo``.

Starts labgrid's coordinator and exporters on the loopback, and eight hosts: real sshd's in
namespaces of this machine. Runs a plan on them and on two emulated machines with a kernel each, and
cuts one host's power for good amid its run. The matrix at the end says so. All of it is stopped and
removed afterwards; the results stay.

All eight hosts run this machine's kernel: they have no other. A second kernel is the lab's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from support.hosts import MOST, Hosts, HostSpec, namespaced_hosts, why_no_hosts
from support.hosts.gate import gate
from support.labgrid_service import Labgrid, labgrid

from kvmtest.errors import KvmtestError

LOST = "host5"
#: The second kernel; the first is the lab's own.
KERNEL = "6.1"
#: Seconds that a run on a host may take. A host that does not answer is given up after this and
#: three minutes, in which its run might end and its network come back.
DEADLINE_S = 10
#: Seconds in which all that was started has ended.
ENDING_S = 10
#: The exit status of a fleet of which a host was lost.
EXPECTED = 3


@dataclass
class Demo:
    """What was started, to see that it has ended."""

    began: float = field(default_factory=time.monotonic)
    processes: list[psutil.Process] = field(default_factory=list)
    cables: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:3.0f} s] {text}", flush=True)


def plan(hosts: Sequence[str], service: Labgrid) -> Mapping[str, object]:
    """Return the plan: hosts by SSH, by their places, and one by a tag."""
    by_ssh, by_place, by_tag = hosts[:3], hosts[3:-1], "any-rapids"
    reached: dict[str, object] = {name: {"ssh": f"root@{name}", "kind": "metal"} for name in by_ssh}
    reached |= {name: {"place": name, "kind": "metal"} for name in by_place}
    reached[by_tag] = {"reserve": {"cpu": "rapids"}, "kind": "metal"}
    reached["emulated"] = {"lab": "intel"}
    return {
        "coordinator": service.address,
        "ssh_config": str(service.hosts.ssh_config),
        "hosts": reached,
        "kernels": {"own": {"own": True}, KERNEL: {"debian": KERNEL}},
        "runs": [
            {
                "hosts": ["metal"],
                "kernels": ["own"],
                "deadline": DEADLINE_S,
                "boot_deadline": 30,
                "require": ["guest.rdmsr-hides"],
            },
            {"hosts": ["lab"]},
        ],
    }


def run(folder: Path, output: Path, demo: Demo) -> int:
    """Run the fleet; return the exit status of kvmtest."""
    with ExitStack() as stack:
        demo.say(f"starting {MOST} hosts, each an sshd in namespaces of its own")
        specs = [HostSpec(f"host{number}") for number in range(1, MOST + 1)]
        hosts = stack.enter_context(namespaced_hosts(folder / "hosts", specs))
        demo.say("starting labgrid's coordinator and two exporters on the loopback")
        tags = {f"host{MOST}": {"cpu": "rapids"}}
        service = stack.enter_context(labgrid(folder / "labgrid", hosts, tags))
        demo.processes = psutil.Process().children(recursive=True)
        demo.cables = cables_of(hosts)
        file = folder / "plan.yaml"
        file.write_text(yaml.safe_dump(plan(list(hosts), service), sort_keys=False))
        killer = threading.Thread(target=lose, args=(hosts, demo), daemon=True)
        killer.start()
        command = [sys.executable, "-m", "kvmtest", "fleet", "run", str(file), "-o", str(output)]
        demo.say(f"kvmtest fleet run plan.yaml -o {output}")
        return subprocess.run(command, env=service.environment, check=False).returncode


def lose(hosts: Hosts, demo: Demo) -> None:
    """Cut a host's power for good once its run is at work."""
    host = hosts[LOST]
    with gate(host) as closed:
        closed.await_run()
        host.die_for_good()
    demo.say(f"{LOST} has lost its power amid its run, and does not come back")


def cables_of(hosts: Hosts) -> set[str]:
    plan = json.loads((hosts.folder / "plan.json").read_text())
    return {each["cable"] for each in plan["hosts"]}


def check(output: Path, status: int, demo: Demo) -> list[str]:
    """Return what is not as it should be."""
    wrong = [] if status == EXPECTED else [f"kvmtest ended with status {status}, not {EXPECTED}"]
    rows = sorted(str(path.parent.relative_to(output)) for path in output.rglob("evidence.json"))
    expected = [f"host{number}/own/1" for number in range(1, MOST)]
    expected = [name for name in expected if not name.startswith(LOST)]
    expected += ["any-rapids/own/1", "emulated/own/1", f"emulated/{KERNEL}/1"]
    if rows != sorted(expected):
        wrong.append(f"there is evidence of {', '.join(rows)}, and not of {', '.join(expected)}")
    page = (output / "matrix.html").read_text()
    if LOST not in page or "lost" not in page.lower():
        wrong.append(f"{output}/matrix.html does not say that {LOST} was lost")
    # They were killed: the last of them may take a moment.
    _, left = psutil.wait_procs(demo.processes, timeout=ENDING_S)
    if left := [process for process in left if runs(process)]:
        wrong.append(f"processes are left: {left}")
    end = time.monotonic() + ENDING_S
    while cables := demo.cables & set(psutil.net_if_addrs()):
        # The kernel frees network namespaces in its own time.
        if time.monotonic() > end:
            wrong.append(f"network interfaces are left: {', '.join(cables)}")
            break
        time.sleep(0.1)
    return wrong


def runs(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that init has not reaped yet has."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fleet-demo", description=__doc__)
    parser.add_argument("-o", type=Path, default=Path("build/fleet-demo"), dest="output")
    options = parser.parse_args()
    if missing := why_no_hosts():
        print(f"fleet-demo: not run: {missing}")
        return 77
    demo = Demo()
    if options.output.exists():
        # Of the last demo.
        shutil.rmtree(options.output)
    with tempfile.TemporaryDirectory(prefix="kvmtest-demo-") as folder:
        try:
            status = run(Path(folder), options.output, demo)
        except KvmtestError as error:
            print(f"fleet-demo: not run: {error}")
            return 77
    wrong = check(options.output, status, demo)
    for line in wrong:
        demo.say(f"WRONG: {line}")
    if not wrong:
        demo.say(f"{LOST} is lost, all others have their evidence: {options.output}/matrix.html")
        demo.say("the hosts, the coordinator and the exporters are gone")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
