"""Places of labgrid's own coordinator are acquired, waited for, and returned."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hosts import Hosts
from support.labgrid_service import Labgrid, labgrid

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.fleet.host import KernelKind, PlannedKernel
from kvmtest.fleet.labgrid.place_host import opened
from kvmtest.fleet.labgrid.places import CoordinatorAway, Places
from kvmtest.fleet.plan import Place, PlannedHost, Reservation

TAGS = {"host1": {"cpu": "spr", "rack": "a"}, "host2": {"cpu": "spr"}, "host3": {"cpu": "milan"}}


@pytest.fixture
def service(hosts: Hosts, tmp_path: Path) -> Iterator[Labgrid]:
    with labgrid(tmp_path / "labgrid", hosts, TAGS) as service:
        yield service


@pytest.fixture
def places(service: Labgrid) -> Callable[..., Places]:
    def make(owner: str, on_step: Callable[[str], None] = print) -> Places:
        return Places(service.address, owner, on_step)

    return make


def holder(service: Labgrid, name: str) -> str:
    shown = service.client("-p", name, "show").stdout
    return next(line.split()[1] for line in shown.splitlines() if "acquired:" in line)


def test_a_place_is_acquired_with_what_is_exported_there_and_returned(
    service: Labgrid, places: Callable[..., Places], hosts: Hosts
) -> None:
    mine = places("plan-1")
    held = mine.acquire("host1", 0)
    (service_there,) = held.resources
    assert (service_there.kind, service_there.arguments["address"]) == (
        "NetworkService",
        hosts["host1"].address,
    )
    assert holder(service, "host1").endswith(f"/{mine.user}")
    mine.release(held)
    assert holder(service, "host1") == "None"


def test_a_place_that_is_held_by_the_same_owner_is_taken_up(places: Callable[..., Places]) -> None:
    first = places("plan-1").acquire("host1", 0)
    # As another process does, after the first was killed.
    assert places("plan-1").acquire("host1", 0) == first


def test_another_owner_is_told_who_has_it(places: Callable[..., Places]) -> None:
    places("plan-1").acquire("host1", 0)
    told: list[str] = []
    with pytest.raises(EnvironmentUnfit, match=r"host1: .+/.+\+plan-1 has this place"):
        places("plan-2", told.append).acquire("host1", 0)
    assert told[0].startswith("host1: waiting for ")


PROGRAM = """
import sys
from kvmtest.fleet.labgrid.places import Places
places = Places(sys.argv[1], "plan-2", lambda line: print(line, flush=True))
print("got", places.acquire("host1", 60).name)
"""


def test_another_owner_gets_it_when_it_is_returned(
    service: Labgrid, places: Callable[..., Places]
) -> None:
    first = places("plan-1")
    held = first.acquire("host1", 0)
    # A process of its own, as each host of a fleet is: gRPC serves one event loop a process.
    command = [sys.executable, "-c", PROGRAM, service.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert second.stdout.readline().startswith("host1: waiting for ")
        first.release(held)
        assert second.stdout.read() == "got host1\n"


def test_a_reservation_gets_any_place_with_the_tags(
    service: Labgrid, places: Callable[..., Places]
) -> None:
    got = {places(owner).reserve({"cpu": "spr"}, 0).name for owner in ("plan-1.a", "plan-1.b")}
    assert got == {"host1", "host2"}
    assert service.client("reservations").stdout == ""
    with pytest.raises(EnvironmentUnfit, match=r"cpu=spr: no place is free \(.*plan-1"):
        places("plan-2").reserve({"cpu": "spr"}, 0)
    assert service.client("reservations").stdout == ""
    # The one that it got is taken up.
    assert places("plan-1.a").reserve({"cpu": "spr"}, 0).name in got


def test_tags_and_names_that_nobody_has_are_refused(places: Callable[..., Places]) -> None:
    with pytest.raises(UsageError, match="no place with the tags cpu=vax"):
        places("plan-1").reserve({"cpu": "vax"}, 0)
    with pytest.raises(UsageError, match="no place 'vax'"):
        places("plan-1").acquire("vax", 0)


def test_what_is_not_ours_is_not_released(service: Labgrid, places: Callable[..., Places]) -> None:
    held = places("plan-1").acquire("host1", 0)
    places("plan-2").release(held)
    assert holder(service, "host1").endswith("+plan-1")


def test_a_place_is_held_across_a_restart_of_the_coordinator(
    service: Labgrid, places: Callable[..., Places]
) -> None:
    mine = places("plan-1")
    held = mine.acquire("host1", 0)
    service.kill_coordinator()
    told: list[str] = []
    away = places("plan-1", told.append)
    away.hold(held)
    assert "does not answer" in told[0]
    service.start_coordinator()
    service.start_exporters()
    mine.hold(held)
    with pytest.raises(EnvironmentUnfit, match="plan-1 has this place"):
        places("plan-2").hold(held)


def test_without_a_coordinator_there_is_one_clear_line(
    service: Labgrid, places: Callable[..., Places]
) -> None:
    service.kill_coordinator()
    with pytest.raises(CoordinatorAway, match="does not answer; start it"):
        places("plan-1").acquire("host1", 60)


@pytest.mark.parametrize("reach", [Place("host3"), Reservation({"cpu": "milan"})])
def test_the_host_of_a_place_is_reached_and_its_place_returned(
    service: Labgrid, hosts: Hosts, reach: Place | Reservation
) -> None:
    planned = PlannedHost("board", reach, "metal")
    with opened(
        planned, "plan-1", print, coordinator=service.address, ssh_config=hosts.ssh_config
    ) as host:
        assert host.name == "board"
        assert holder(service, "host3").endswith("+plan-1")
        assert host.host.shell.run(["hostname"]).text == "host3"
        host.restore(60)
    assert holder(service, "host3") == "None"


def test_a_host_whose_place_somebody_else_got_meanwhile_is_left_alone(
    service: Labgrid, hosts: Hosts, places: Callable[..., Places]
) -> None:
    planned = PlannedHost("board", Place("host3"), "metal")
    with opened(
        planned, "plan-1", print, coordinator=service.address, ssh_config=hosts.ssh_config
    ) as host:
        service.kill_coordinator()
        service.start_coordinator()
        service.start_exporters()
        places("plan-2").acquire("host3", 0)
        for step in (lambda: host.restore(60), lambda: host.boot(PlannedKernel("own"), 60)):
            with pytest.raises(EnvironmentUnfit, match="plan-2 has this place"):
                step()
    assert holder(service, "host3").endswith("+plan-2")


def test_a_host_whose_key_is_unknown_is_not_spoken_to(
    service: Labgrid, hosts: Hosts, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    known = hosts.known_hosts.read_text().splitlines()
    (tmp_path / "known").write_text("\n".join(line for line in known if "host3," not in line))
    text = hosts.ssh_config.read_text()
    config.write_text(text.replace(str(hosts.known_hosts), str(tmp_path / "known")))
    planned = PlannedHost("board", Place("host3"), "metal")
    with (
        opened(planned, "x", print, coordinator=service.address, ssh_config=config) as host,
        pytest.raises(EnvironmentUnfit, match="its host key is not known"),
    ):
        host.boot(PlannedKernel("own", KernelKind.OWN), 10)
