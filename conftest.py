"""Plain ``pytest tests/suite`` works from a checkout: the plugin that decides properties is loaded."""

pytest_plugins = ["kvmtest.plugin"]
