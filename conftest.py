"""Plain ``pytest tests/suite`` works from a checkout: the plugin that decides is loaded."""

pytest_plugins = ["kvmtest.plugin"]
