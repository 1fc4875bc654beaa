"""Plain ``pytest tests/suite`` works from a checkout: the plugin is loaded where pytest does not.

pytest loads the plugin itself where kvmtest is installed, unless it is told to load none.
"""

import os
from importlib.metadata import entry_points

_IS_LOADED = "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ and any(
    point.value == "kvmtest.plugin" for point in entry_points(group="pytest11")
)

pytest_plugins = [] if _IS_LOADED else ["kvmtest.plugin"]
