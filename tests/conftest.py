"""Which tests may run side by side: those that share this machine's kernel by name take turns, the others go by file.

Labs bring hosts with file systems, networks and pins of their own, so a file that uses one shares nothing with another.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("corollout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corollout")

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(HERE).parts[0]
        shared = room == "probes" or (room != "fleet" and item.get_closest_marker("kernel") is not None)
        item.add_marker(pytest.mark.xdist_group("machine" if shared else item.path.name))
