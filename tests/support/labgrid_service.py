"""labgrid's coordinator and exporters on the loopback, which export a fleet's hosts as places.

They die with the test. Everything is started by labgrid's own commands.
"""

import os
import subprocess
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kvmtest.child import mortal
from support.hosts import Hosts

__all__ = ["Labgrid", "labgrid"]

_SCRIPTS = Path(sysconfig.get_path("scripts"))
#: How many exporters there are: a host belongs to one of them, as machines to racks.
_RACKS = 2


@dataclass
class Labgrid:
    """A coordinator at ``address``, and its exporters by name."""

    folder: Path
    hosts: Hosts
    address: str = "127.0.0.1:0"
    coordinator: "Program | None" = None
    exporters: "dict[str, Program]" = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The hosts' (support.hosts), with the coordinator's address for labgrid's commands."""
        return {**self.hosts.environment, "LG_COORDINATOR": self.address}

    def client(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run labgrid-client."""
        command = [str(_SCRIPTS / "labgrid-client"), *words]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start_coordinator(self) -> None:
        """Start it, at the port that it had before; return when it takes connections.

        It remembers its places, in a file of its working folder.
        """
        command = [str(_SCRIPTS / "labgrid-coordinator"), "-l", self.address]
        self.coordinator = Program(command, self.folder, "listening on ")
        self.address = self.coordinator.line.split()[-1]

    def kill_coordinator(self) -> None:
        self.coordinator.end()

    def start_exporters(self) -> None:
        """Start them all anew, as systemd does when they end because their coordinator has.

        They are connected on return.
        """
        for name in self._racks():
            if old := self.exporters.pop(name, None):
                old.end()
            file = f"{name}.yaml"
            command = [
                *(str(_SCRIPTS / "labgrid-exporter"), "-c", self.address, "-n", name),
                *("--hostname", "127.0.0.1", file),
            ]
            self.exporters[name] = Program(command, self.folder, "Exporter ready")

    def write(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """Write what the exporters export, and the coordinator's places, one a host."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for rack, hosts in self._racks().items():
            groups = {
                name: {"NetworkService": {"address": self.hosts[name].address, "username": "root"}}
                for name in hosts
            }
            (self.folder / f"{rack}.yaml").write_text(yaml.safe_dump(groups))
        places = {
            name: {
                "tags": dict(tags.get(name, {})),
                "matches": [{"exporter": rack, "group": name, "cls": "NetworkService"}],
            }
            for rack, hosts in self._racks().items()
            for name in hosts
        }
        (self.folder / "places.yaml").write_text(yaml.safe_dump(places))

    def _racks(self) -> dict[str, list[str]]:
        names = list(self.hosts)
        return {f"rack{number + 1}": names[number::_RACKS] for number in range(_RACKS)}

    def stop(self) -> None:
        for program in (*self.exporters.values(), self.coordinator):
            if program is not None:
                program.end()


@contextmanager
def labgrid(
    folder: Path, hosts: Hosts, tags: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Labgrid]:
    """Start a coordinator and its exporters; ``tags`` are the places', by the host's name."""
    service = Labgrid(folder, hosts)
    with ExitStack() as stack:
        stack.callback(service.stop)
        service.write(tags or {})
        service.start_coordinator()
        service.start_exporters()
        yield service


class Program:
    """A program that is there once it has printed a line that begins in a given way."""

    def __init__(self, command: Sequence[str], folder: Path, beginning: str) -> None:
        self.process = subprocess.Popen(
            mortal(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith(beginning):
                break
        self.line = said[-1].strip()
        # It is read on, so that it never waits for its reader.
        self._reader = threading.Thread(target=said.extend, args=(self.process.stdout,))
        self._reader.start()
        assert self.line.startswith(beginning), "".join(said)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
