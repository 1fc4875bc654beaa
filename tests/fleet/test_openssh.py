"""fleet/openssh.py on real sshd's: nothing is asked, believed or lent."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import Hosts

from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.shell import CommandFailed, ConnectionLost, Refused, TooMuch, TooSlow


@pytest.fixture
def shell(hosts: Hosts) -> OpenSsh:
    return OpenSsh("host1", config=hosts.ssh_config)


def test_words_arrive_as_they_are(shell: OpenSsh) -> None:
    words = ["", "two words", "$HOME `id` $(id)", "it's", "*", "a\nb", "\\", "-n", "é"]
    ran = shell.run(["printf", "%s\\0", *words])
    assert ran.output == b"".join(word.encode() + b"\0" for word in words)
    assert (ran.status, ran.errors) == (0, b"")


def test_input_output_and_errors_are_the_command_s(shell: OpenSsh) -> None:
    given = bytes(range(256)) * 4000
    ran = shell.run(["sh", "-c", "cat; echo wrong >&2; exit 7"], given)
    assert (ran.status, ran.output, ran.errors) == (7, given, b"wrong\n")


@pytest.mark.parametrize(
    ("script", "status"), [("exit 255", 254), ("exit 254", 254), ("kill -KILL $$", 128 + 9)]
)
def test_a_command_s_end_is_no_lost_connection(shell: OpenSsh, script: str, status: int) -> None:
    assert shell.run(["sh", "-c", script]).status == status


def test_endless_output_is_cut(shell: OpenSsh) -> None:
    with pytest.raises(TooMuch, match=r"^host1: it sent more than 1000 bytes"):
        shell.run(["cat", "/dev/zero"], most=1000)
    with pytest.raises(TooMuch):
        shell.run(["sh", "-c", "cat /dev/zero >&2"], most=1000)
    with pytest.raises(TooMuch):
        shell.get("/dev/zero", most=1000)


def test_an_endless_command_is_left(shell: OpenSsh) -> None:
    with pytest.raises(TooSlow, match=r"^host1: a command did not end in 1 s"):
        shell.run(["sleep", "infinity"], deadline=1)


def test_a_file_comes_and_goes_whole(shell: OpenSsh, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "local").write_bytes(data)
    shell.put(tmp_path / "local", "/root/it's here")
    assert shell.get("/root/it's here", most=len(data)) == data
    with pytest.raises(CommandFailed, match=r"can't read /nowhere: .*No such file"):
        shell.get("/nowhere", most=10)
    with pytest.raises(CommandFailed, match=r"can't write /nowhere/file: .*nonexistent"):
        shell.put(tmp_path / "local", "/nowhere/file")


PUT = """
import sys
from pathlib import Path
from kvmtest.fleet.openssh import OpenSsh
OpenSsh("host1", config=Path(sys.argv[1])).put(Path(sys.argv[2]), "/root/cut/file")
"""


def test_a_file_that_is_cut_off_does_not_appear(
    hosts: Hosts, shell: OpenSsh, tmp_path: Path
) -> None:
    shell.run(["sh", "-c", "mkdir /root/cut && mkfifo /root/cut/file.part"])
    (tmp_path / "local").write_bytes(bytes(3_000_000))
    words = [sys.executable, "-c", PUT, str(hosts.ssh_config), str(tmp_path / "local")]
    with subprocess.Popen(words) as putting:
        # It is amid the file when it is killed: a FIFO takes no more than is read.
        begun = shell.run(["sh", "-c", "exec 3</root/cut/file.part; head -c 10 <&3 | wc -c"])
        putting.kill()
    assert begun.text == "10"
    _await(shell, "[ ! -e /root/cut/file.part ]")
    assert shell.run(["ls", "/root/cut"]).text == ""


def _await(shell: OpenSsh, condition: str) -> None:
    """Return when a condition holds on the host."""
    assert shell.run(["sh", "-c", f"until {condition}; do :; done"], deadline=60).status == 0


@pytest.fixture
def another_key(tmp_path: Path) -> str:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "another")]
    subprocess.run(words, check=True)
    return " ".join((tmp_path / "another.pub").read_text().split()[:2])


def believing(hosts: Hosts, known: Path) -> OpenSsh:
    """Return a shell on host1 that knows the keys of a file alone."""
    return OpenSsh("host1", config=hosts.ssh_config, known_hosts=known)


def test_a_host_with_another_key_is_refused(hosts: Hosts, tmp_path: Path, another_key: str) -> None:
    known = tmp_path / "known hosts, 100%"
    known.write_text(f"host1 {another_key}\n")
    with pytest.raises(Refused, match=r"^host1: its host key is not the one that is known"):
        believing(hosts, known).run(["true"])
    assert known.read_text() == f"host1 {another_key}\n"


def test_a_host_with_an_unknown_key_is_refused_and_not_learnt(hosts: Hosts, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    with pytest.raises(Refused, match=r"^host1: its host key is not known; put the key"):
        believing(hosts, known).run(["true"])
    assert known.read_text() == ""


def test_the_plan_s_host_keys_are_believed(hosts: Hosts, tmp_path: Path) -> None:
    known = tmp_path / "known hosts, 100%"
    known.write_text(hosts.known_hosts.read_text())
    assert believing(hosts, known).run(["hostname"]).text == "host1"


def test_a_host_that_does_not_let_us_in_is_told(hosts: Hosts, tmp_path: Path) -> None:
    config = hosts.ssh_config.read_text().replace(str(hosts.key), str(tmp_path / "none"))
    (tmp_path / "config").write_text(config)
    with pytest.raises(Refused, match=r"^host1: it does not let us in"):
        OpenSsh("host1", config=tmp_path / "config").run(["true"])


LENDING = """
Host *
    ForwardAgent yes
    ForwardX11 yes
    RemoteForward 127.0.0.1:9999 127.0.0.1:22
    PermitLocalCommand yes
    LocalCommand touch {folder}/local
    RemoteCommand touch /root/remote
    RequestTTY force
    ControlMaster auto
    ControlPath {folder}/shared
    ControlPersist 60
    StrictHostKeyChecking no
    BatchMode no
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent that this process could lend."""
    socket = tmp_path / "agent"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL
    ) as process:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
        process.kill()


@pytest.mark.usefixtures("agent")
def test_nothing_is_lent_to_a_host(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(LENDING.format(folder=tmp_path) + hosts.ssh_config.read_text())
    shell = OpenSsh("host1", config=tmp_path / "config")
    script = "echo ${SSH_AUTH_SOCK:-no agent}; tty; ls /root/remote; cat /proc/net/tcp"
    said = shell.run(["sh", "-c", script])
    assert said.text.startswith("no agent\nnot a tty\n")
    assert ":270F " not in said.text  # Port 9999.
    assert b"/root/remote" in said.errors
    assert {path.name for path in tmp_path.iterdir()} <= {"config", "agent"}


def test_a_host_that_is_off_is_no_refusal(hosts: Hosts) -> None:
    hosts["host2"].off()
    shell = OpenSsh("host2", config=hosts.ssh_config, connect_s=2)
    with pytest.raises(ConnectionLost, match=r"^host2: no connection \(.*see whether the host"):
        shell.run(["true"])
    hosts["host2"].on()
    hosts["host2"].await_ssh()


def test_a_connection_that_breaks_is_noticed(hosts: Hosts) -> None:
    shell = OpenSsh("host2", config=hosts.ssh_config, alive_s=1)
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match=r"^host2: no connection"):
        shell.run(["sh", "-c", "kill -KILL $(ps -o ppid= $PPID)"], deadline=60)
    assert time.monotonic() - began < 60


def test_a_network_that_is_gone_is_noticed(hosts: Hosts) -> None:
    shell = OpenSsh("host3", config=hosts.ssh_config, alive_s=1, connect_s=2)
    hosts["host3"].pull_cable()
    try:
        with pytest.raises(ConnectionLost):
            shell.run(["true"], deadline=60)
    finally:
        hosts["host3"].plug_cable()
    hosts["host3"].await_ssh()
