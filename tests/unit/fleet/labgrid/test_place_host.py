from collections.abc import Iterator

import pytest
from labgrid import Target
from support.file_server import FileServer, file_server

from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.labgrid import place_host
from kvmtest.fleet.labgrid.place_host import PowerPorts, _target
from kvmtest.fleet.labgrid.places import Exported, HeldPlace


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A power switch with two ports that labgrid's driver simplerest knows."""
    monkeypatch.setattr(place_host, "_OFF_S", 0.0)
    with file_server() as server:
        server.files = {f"/{port}/{value}": b"" for port in (0, 1) for value in (0, 1)}
        yield server


def held(switch: FileServer, *ports: int) -> HeldPlace:
    host = switch.url("/{index}/{value}")
    resources = [
        Exported(
            f"power-{port}",
            "NetworkPowerPort",
            {"model": "simplerest", "host": host, "index": str(port)},
        )
        for port in ports
    ]
    return HeldPlace("board", resources)


def ports(of: HeldPlace) -> PowerPorts | None:
    target: Target = _target(of)
    return PowerPorts.of(target, of)


def test_a_host_with_two_supplies_loses_both_before_it_gets_one(switch: FileServer) -> None:
    power = ports(held(switch, 0, 1))
    assert power is not None
    power.cycle()
    assert switch.asked == ["/0/0", "/1/0", "/0/1", "/1/1"]


def test_a_place_without_a_port_has_no_power(switch: FileServer) -> None:
    assert ports(held(switch)) is None


def test_a_switch_that_refuses_is_one_clear_line(switch: FileServer) -> None:
    power = ports(held(switch, 0))
    switch.files.clear()
    assert power is not None
    with pytest.raises(EnvironmentUnfit, match=r"^the power can't be switched: 404 "):
        power.cycle()
