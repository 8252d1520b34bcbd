"""Droplets of the drill tests, and the marker that all of them carry."""

import pytest

from tests.drill.deploying import PROJECT


def pytest_collection_modifyitems(items):
    here = PROJECT / "tests" / "drill"
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.droplet)
