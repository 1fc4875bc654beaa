"""fleet/openssh.py: what ssh(1) is given."""

from pathlib import Path

import pytest

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.fleet.openssh import OpenSsh


@pytest.mark.parametrize(
    "host",
    ["", "-oProxyCommand=id", "a b", "@host", "host;id", "$(id)", "ssh://host/path", "hôst", "a\n"],
)
def test_what_names_no_host_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="names no host"):
        OpenSsh(host)


@pytest.mark.parametrize("host", ["host", "root@host.example", "root@192.0.2.1", "alias-1", "a::1"])
def test_what_names_a_host_is_the_last_word_but_the_command(host: str) -> None:
    *_, dashes, name, command = OpenSsh(host).command(["echo", "a b"])
    assert (dashes, name) == ("--", host)
    assert command.endswith(" sh echo 'a b'")


def test_no_option_of_a_caller_changes_what_is_checked() -> None:
    words = OpenSsh("host", options=["StrictHostKeyChecking=no", "ForwardAgent=yes"]).command(["x"])
    for name, value in (("StrictHostKeyChecking", "yes"), ("ForwardAgent", "no")):
        first = next(word for word in words if word.startswith(f"{name}="))
        assert first == f"{name}={value}"


@pytest.mark.parametrize("name", ['a"b', "${HOME}", "a\nb"])
def test_a_file_that_ssh_can_t_be_given_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="rename it"):
        OpenSsh("host", known_hosts=Path(name)).command(["true"])


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentUnfit, match=f"^ssh is missing; {install('openssh-client')}"):
        OpenSsh("host").run(["true"])
