"""The CPUs that can go, and what is bound to CPUs, are found in a stand-in's files."""

from pathlib import Path

import pytest
from support.stand_in import stand_in, write

from kvmtest.host.facts.hotplug import Bound, Task, cpus_allowed, is_online, removable, switch
from kvmtest.host.tree import Tree

# The flags of a kernel thread that stays on its CPU, and of any other task.
PINNED, FREE = 0x04208040, 0x00400040
CPUSETS = "/sys/fs/cgroup/cpuset"


def add_task(tree: Tree, tid: int, cpus: str, flags: int = FREE, name: str = "task") -> None:
    after = f"S 1 1 0 0 -1 {flags} " + "0 " * 12 + f"{1000 + tid} 0"
    write(tree, f"/proc/{tid}/task/{tid}/stat", f"{tid} ({name}) {after}\n")
    write(tree, f"/proc/{tid}/task/{tid}/status", f"Name:\t{name}\nCpus_allowed_list:\t{cpus}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return stand_in(
        tmp_path,
        {
            "/sys/devices/system/cpu/online": "0-3\n",
            switch(1): "1\n",
            switch(2): "0\n",
            switch(3): "1\n",
            "/sys/devices/system/cpu/cpufreq/online": "1\n",
            "/proc/mounts": f"cgroup {CPUSETS} cgroup rw,cpuset 0 0\nc /cpu cgroup rw,cpu 0 0\n",
            f"{CPUSETS}/cpuset.cpus": "0-3\n",
        },
    )


def test_cpus_that_are_online_and_have_a_switch_can_go(tree: Tree) -> None:
    assert removable(tree) == (1, 3)
    assert [is_online(tree, cpu) for cpu in range(4)] == [True, True, False, True]


def test_tasks_that_may_not_run_everywhere_are_bound(tree: Tree) -> None:
    add_task(tree, 10, "0-3")
    add_task(tree, 11, "0-63")
    add_task(tree, 12, "1,3", name="a) S 1 (b")
    add_task(tree, 13, "2", flags=PINNED)
    assert Bound.of(tree) == Bound(tasks=(Task(12, 1012, "1,3"),))


def test_a_task_that_has_ended_is_none(tree: Tree) -> None:
    add_task(tree, 10, "1")
    tree.path("/proc/10/task/10/status").unlink()
    assert not Bound.of(tree)
    assert cpus_allowed(tree, "/proc/10/task/10") is None


def test_interrupts_and_cpusets_of_cgroup_v1_are_bound(tree: Tree) -> None:
    files = {
        "/proc/irq/8/smp_affinity_list": "0-3",
        "/proc/irq/9/smp_affinity_list": "3",
        f"{CPUSETS}/web/cpuset.cpus": "0,3",
        f"{CPUSETS}/web/inner/cpuset.cpus": "3",
        f"{CPUSETS}/all/cpuset.cpus": "0-3",
        f"{CPUSETS}/none/cpuset.cpus": "\n",
        "/cpu/web/cpuset.cpus": "3",
    }
    for name, cpus in files.items():
        write(tree, name, cpus)
    bound = Bound.of(tree)
    assert dict(bound.files) == {name: files[name] for name in list(files)[1:4]}
    assert bound.alone_on(3) == (f"{CPUSETS}/web/inner/cpuset.cpus",)
    assert bound.alone_on(0) == ()


def test_the_live_machine_s_tasks_are_read() -> None:
    assert all(task.cpus for task in Bound.of(Tree()).tasks)
