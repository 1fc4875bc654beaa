"""kvmtest/fleet/plan.py: what a plan says, and which line of it is wrong."""

from pathlib import Path

import pytest

from kvmtest.fleet.host import KernelKind, PlannedKernel
from kvmtest.fleet.plan import (
    LabMachine,
    Place,
    Plan,
    PlanError,
    Reservation,
    SshHost,
    load,
    parse,
)

WHOLE = """\
coordinator: 127.0.0.1:20408
ssh_config: ssh/config
hosts:
  emulated: {lab: intel, cpus: 2, parameters: [kvm_intel.nested=1]}
  spr: {ssh: root@spr.example, port: 2222, kind: metal}
  board: {place: board-1, kind: metal, boot: kexec}
  any: {reserve: {cpu: spr, sockets: 2}}
kernels:
  own: {own: true}
  stable: {debian: 6.10}
  mine: {deb: [linux-image.deb, extra.deb]}
  tree: {tree: linux}
kinds:
  metal: {options: --hotplug --strict, require: [witness:leak]}
runs:
  - hosts: [metal, emulated]
    kernels: [stable, mine]
    options: -m 'intel and not smi'
    require: [vmx.entry.fresh]
    repeat: 3
    deadline: 2h
    boot_deadline: 90
    retries: 0
  - {}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("linux-image.deb", "extra.deb"):
        (tmp_path / name).touch()
    (tmp_path / "linux").mkdir()
    return tmp_path


def plan(text: str, folder: Path) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text)
    return load(path)


def test_a_plan_says_how_each_host_is_reached(folder: Path) -> None:
    hosts = plan(WHOLE, folder).hosts
    assert {name: (host.reach, host.kind) for name, host in hosts.items()} == {
        "emulated": (LabMachine("intel", 2, (), ("kvm_intel.nested=1",)), "lab"),
        "spr": (SshHost("root@spr.example", 2222), "metal"),
        "board": (Place("board-1"), "metal"),
        "any": (Reservation({"cpu": "spr", "sockets": "2"}), "reserve"),
    }


def test_a_host_boots_by_grub_unless_the_plan_says_kexec(folder: Path) -> None:
    hosts = plan(WHOLE, folder).hosts
    assert [host.boot for host in hosts.values()] == ["grub", "grub", "kexec", "grub"]


def test_a_plan_names_kernels_and_its_paths_are_relative_to_it(folder: Path) -> None:
    made = plan(WHOLE, folder)
    assert list(made.kernels.values()) == [
        PlannedKernel("own"),
        PlannedKernel("stable", KernelKind.DEBIAN, "6.10"),
        PlannedKernel(
            "mine", KernelKind.DEB, "", (folder / "linux-image.deb", folder / "extra.deb")
        ),
        PlannedKernel("tree", KernelKind.TREE, "", (folder / "linux",)),
    ]
    assert made.ssh_config == folder / "ssh" / "config"
    assert made.coordinator == "127.0.0.1:20408"


def test_a_copy_of_a_plan_keeps_the_folder_of_the_first(folder: Path, tmp_path: Path) -> None:
    copy = parse(WHOLE, Path("elsewhere/plan.yaml"), folder)
    assert copy.kernels == plan(WHOLE, folder).kernels
    assert copy.digest == plan(WHOLE, folder).digest


def test_a_copy_can_be_read_when_the_kernels_are_gone(folder: Path, tmp_path: Path) -> None:
    (folder / "linux").rmdir()
    assert parse(WHOLE, Path("elsewhere/plan.yaml"), folder).kernels["tree"].paths
    with pytest.raises(PlanError, match="linux does not exist"):
        plan(WHOLE, folder)


def test_an_entry_names_hosts_by_kind_and_all_by_default(folder: Path) -> None:
    some, all_of_them = plan(WHOLE, folder).runs
    assert some.hosts == ("emulated", "spr", "board")
    assert some.kernels == ("stable", "mine")
    assert (some.repeat, some.deadline, some.boot_deadline, some.retries) == (3, 7200, 90, 0)
    assert all_of_them.hosts == ("emulated", "spr", "board", "any")
    assert all_of_them.kernels == ("own", "stable", "mine", "tree")
    assert (all_of_them.repeat, all_of_them.deadline, all_of_them.retries) == (1, 900, 1)


def test_a_kind_adds_options_and_what_it_requires(folder: Path) -> None:
    made = plan(WHOLE, folder)
    first = made.runs[0]
    assert made.options(first, made.hosts["spr"]).words() == [
        "-m=intel and not smi", "--require=witness:leak", "--require=vmx.entry.fresh",
        "--strict", "--hotplug",
    ]  # fmt: skip
    assert made.options(first, made.hosts["emulated"]).words() == [
        "-m=intel and not smi", "--require=vmx.entry.fresh",
    ]  # fmt: skip


def test_an_entry_s_option_counts_where_its_kind_gives_another(folder: Path) -> None:
    made = plan(WHOLE.replace("--hotplug --strict", "-m amd"), folder)
    assert made.options(made.runs[0], made.hosts["spr"]).marker == "intel and not smi"
    assert made.options(made.runs[1], made.hosts["spr"]).marker == "amd"


def test_without_kernels_each_host_runs_its_own(tmp_path: Path) -> None:
    made = plan("hosts: {a: {lab: amd}}\nruns: [{}]\n", tmp_path)
    assert made.kernels == {"own": PlannedKernel("own")}


HOSTS = "hosts:\n  a: {lab: intel}\n  b: {ssh: root@b}\n"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 0, "it is empty; give it hosts and runs"),
        ("[", 1, "expected the node content"),
        ("a: &x [*x]\n", 1, "nested too deeply"),
        ("[hosts]\n", 1, "must be object"),
        ("? [a]\n: b\n", 1, "a key is no text"),
        (HOSTS + "  a: {lab: amd}\nruns: [{}]", 4, "a is there twice"),
        (HOSTS, 1, "must contain"),
        (HOSTS + "runs: []", 4, "runs must contain at least 1 items"),
        (HOSTS + "runs:\n- {}\n- hots: [a]\n", 6, "hots is unknown in runs.1; it takes hosts,"),
        ("hosts:\n  ok: {lab: intel}\n  ../x: {lab: intel}\nruns: [{}]", 3, "../x is no name"),
        ('hosts:\n  "x\\n": {lab: intel}\nruns: [{}]', 2, " is no name; use up to 64"),
        ("hosts:\n  evidence.json: {lab: intel}\nruns: [{}]", 2, "files that a fleet writes"),
        ("hosts:\n  a: {kind: x}\nruns: [{}]", 2, "a has none of lab, ssh, place, reserve"),
        ("hosts:\n  a: {lab: amd, place: p}\nruns: [{}]", 2, "a has both lab and place"),
        ("hosts:\n  a:\n    lab: vax\nruns: [{}]", 3, "hosts.a.lab must be one of"),
        ("hosts:\n  a:\n    place: p\n    cpus: 1\nruns: [{}]", 4, "cpus does not fit"),
        ("hosts:\n  a:\n    lab: amd\n    boot: kexec\nruns: [{}]", 4, "boot does not fit"),
        ("hosts:\n  a:\n    ssh: -oProxyCommand=x@y\nruns: [{}]", 3, "hosts.a.ssh must match"),
        (
            "hosts:\n  a:\n    lab: amd\n    parameters: [kvm_intel.x=1]\nruns: [{}]",
            4,
            "modules are kvm and kvm_amd",
        ),
        (HOSTS + "runs: [{}]\nkinds:\n  metal: {}\n", 6, "no host is of the kind metal"),
        (HOSTS + "runs:\n- hosts:\n  - a\n  - c\n", 7, "there is no host c; there is a, b, lab"),
        (HOSTS + "runs:\n- kernels: [x]\n", 5, "there is no kernel x; there is own"),
        (HOSTS + "runs:\n-\n  options: --none\n", 6, "options: unrecognized arguments: --none"),
        (HOSTS + "runs:\n- options: --bisect\n", 5, "unrecognized arguments: --bisect"),
        (HOSTS + "runs:\n- options: --hotplug\n", 5, "a takes the options of kvmtest lab run"),
        (HOSTS + 'runs:\n- options: "-m \'x"\n', 5, "No closing quotation"),
        (HOSTS + "runs:\n- hosts: [a]\n  deadline: 1d\n", 6, "deadline: 1d is no time"),
        (HOSTS + "runs:\n- deadline: 0\n", 5, "deadline: 0 is no time"),
        (HOSTS + "runs:\n- repeat: many\n", 5, "runs.0.repeat must be integer"),
        (HOSTS + "runs: [{}]\nkernels:\n  k:\n    tree: no\n", 7, "/no does not exist"),
        (HOSTS + "runs: [{}]\nkernels:\n  k:\n    own: true\n    tree: .\n", 6, "both own and"),
    ],
)
def test_an_error_names_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(PlanError) as error:
        plan(text, tmp_path)
    where = f"{tmp_path}/plan.yaml:{line}: " if line else f"{tmp_path}/plan.yaml: "
    assert str(error.value).startswith(where)
    assert what in str(error.value)
    assert error.value.line == line


def test_a_plan_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file or directory; name a plan"):
        load(tmp_path / "none.yaml")
    (tmp_path / "plan").write_bytes(b"\xff")
    with pytest.raises(PlanError, match="not text in UTF-8"):
        load(tmp_path / "plan")


def test_aliases_that_grow_without_bound_are_refused(tmp_path: Path) -> None:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(rows)
    with pytest.raises(PlanError, match="nested too deeply"):
        plan(text, tmp_path)
