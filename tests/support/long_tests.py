"""Which tests of fleets run only where they are asked for: waiting for hosts takes them long."""

import os

import pytest

takes_long = pytest.mark.skipif(
    os.environ.get("KVMTEST_FLEET_TESTS") != "all",
    reason="waits long for hosts: KVMTEST_FLEET_TESTS=all",
)
