"""pytest --lg-env: tests of a labgrid target, kvmtest's suite among them, and green by nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fleet.conftest import PRETENDED
from support.hosts import Hosts, NamespacedHost

from kvmtest.evidence import load

BOOTS = """
def test_it_runs_its_own_kernel(strategy, target):
    strategy.transition("own")
    assert target.get_driver("CommandProtocol").run_check("uname -r") == ["RELEASE"]
""".replace("RELEASE", PRETENDED)
MEASURES = """
def test_it_is_measured(strategy):
    strategy.transition("measured")
    assert strategy.outcome.evidence.kernel.release == "RELEASE"
    assert "fleet" in strategy.ssh.run_check("ls /var/lib/kvmtest")
""".replace("RELEASE", PRETENDED)
FAILS = MEASURES + "    assert False, 'on purpose'\n"
ALONE = "def test_something_else():\n    pass\n"
SKIPPED = """
import pytest
@pytest.mark.lg_feature("tdx")
def test_a_feature(strategy):
    strategy.transition("own")
"""
#: What the page's environment file chooses.
ONLY = ("any.no-warnings", "kernel.fix-present")
PAGE = Path(__file__).parents[2] / "docs/labgrid.md"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def host(hosts: Hosts) -> NamespacedHost:
    return hosts["host8"]


@pytest.fixture
def environment(hosts: Hosts, host: NamespacedHost, tmp_path: Path) -> Path:
    """The environment file of docs/labgrid.md, for a host that is here, and its own kernel."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    config = yaml.safe_load(block)
    main = config["targets"]["main"]
    main["resources"]["NetworkService"]["address"] = host.address
    power, ssh, strategy = (next(iter(each.values())) for each in main["drivers"])
    power.update(cmd_on=host.power_command("on"), cmd_off=host.power_command("off"))
    known = tmp_path / "known hosts, 100%"
    known.write_text(hosts.known_hosts.read_text())
    ssh.update(known_hosts=known.name, keyfile=str(hosts.key))
    del strategy["kernel"]
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    def run(test: str, *words: str) -> "subprocess.CompletedProcess[str]":
        folder = tmp_path / "tests"
        folder.mkdir(exist_ok=True)
        (folder / "test_it.py").write_text(test)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
        variables = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        return subprocess.run(
            [*command, f"--lg-env={environment}"], cwd=folder, env=variables,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    return run


def is_as_found(host: NamespacedHost) -> bool:
    return host.run("ls", "-A", "/var/lib/kvmtest", check=False).stdout == ""


def test_a_test_that_uses_its_target_is_green(run: Run, host: NamespacedHost) -> None:
    done = run(BOOTS)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert is_as_found(host)


def test_a_target_is_measured_and_put_back(run: Run, host: NamespacedHost) -> None:
    done = run(MEASURES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_as_found(host)


@pytest.mark.parametrize("words", [(), ("-x",)])
def test_a_target_is_put_back_after_a_failure(
    run: Run, host: NamespacedHost, words: tuple[str, ...]
) -> None:
    done = run(FAILS + ALONE, *words)
    assert (done.returncode, "on purpose" in done.stdout) == (1, True), done.stdout + done.stderr
    assert is_as_found(host)


@pytest.mark.parametrize("test", [ALONE, SKIPPED, ALONE + SKIPPED])
def test_a_run_that_leaves_all_targets_alone_is_not_green(run: Run, test: str) -> None:
    done = run(test)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "kvmtest: no test used a labgrid target, so nothing was tried" in done.stdout


def test_another_lab_s_run_is_not_judged(run: Run, environment: Path) -> None:
    config = yaml.safe_load(environment.read_text())
    del config["targets"]["main"]["drivers"][-1]
    environment.write_text(yaml.safe_dump(config))
    assert run(ALONE).returncode == 0


def test_the_suite_is_decided_on_the_target(run: Run, host: NamespacedHost, tmp_path: Path) -> None:
    output = tmp_path / "evidence"
    only = [f"--kvmtest-only={each}" for each in ONLY]
    done = run(ALONE, "--pyargs", "kvmtest.suite", f"--kvmtest-output={output}", *only)
    evidence = load(output / "evidence.json")
    # It is the host that pretends this release.
    assert evidence.kernel.release == PRETENDED
    assert {result.id for result in evidence.results} == set(ONLY)
    assert done.returncode == evidence.exit_status
    for result in evidence.results:
        assert f"{result.verdict:<12} {result.id}: {result.reason}" in done.stdout
    assert (output / "junit.xml").exists()
    assert is_as_found(host)


def test_the_suite_needs_a_strategy_that_boots_kernels(run: Run, environment: Path) -> None:
    config = yaml.safe_load(environment.read_text())
    config["targets"]["main"]["drivers"][-1] = {"ShellStrategy": {}}
    environment.write_text(yaml.safe_dump(config))
    done = run(ALONE, "--pyargs", "kvmtest.suite")
    assert done.returncode != 0
    assert "PASS" not in done.stdout


def test_a_host_with_another_key_is_not_spoken_to(
    run: Run, environment: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load(environment.read_text())
    (tmp_path / "empty").write_text("")
    config["targets"]["main"]["drivers"][1]["CheckedSSHDriver"]["known_hosts"] = "empty"
    environment.write_text(yaml.safe_dump(config))
    done = run(
        "def test_ssh(target):\n"
        "    target.get_driver('SSHDriver', activate=False).connection_timeout = 1.0\n"
        "    target.get_driver('SSHDriver')\n"
    )
    assert done.returncode == 1
    assert "Host key verification failed" in done.stdout + done.stderr
