"""tests/support/labgrid_service.py: labgrid's own commands see the hosts as places."""

from pathlib import Path

from support.hosts import Hosts
from support.labgrid_service import labgrid


def test_places_can_be_used_and_outlive_the_coordinator(hosts: Hosts, tmp_path: Path) -> None:
    with labgrid(tmp_path / "labgrid", hosts, {"host2": {"cpu": "spr"}}) as service:
        assert service.client("places").stdout.split() == list(hosts)
        service.client("-p", "host1", "acquire")
        assert service.client("-p", "host1", "acquire", check=False).returncode == 1
        assert service.client("-p", "host1", "ssh", "hostname").stdout == "host1\n"
        assert "main: host2" in service.client("reserve", "--wait", "cpu=spr").stdout
        address = service.address
        service.kill_coordinator()
        service.start_coordinator()
        service.start_exporters()
        assert service.address == address
        # Its places are in a file; who had acquired them is not.
        service.client("-p", "host1", "acquire")
        assert service.client("-p", "host1", "ssh", "hostname").stdout == "host1\n"
