"""Which tiers run: pure and operation tests always, real services with ``--real``, droplets by marker."""

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# The programs of this environment (uv, ruff, ...) are found also where nobody activated it.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


# What is slow on a busy machine is not wrong.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--real", action="store_true", help="also run the tests that need real servers (minutes)"
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--real"):
        return
    real = [item for item in items if item.get_closest_marker("real")]
    if real:
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if item not in real]
