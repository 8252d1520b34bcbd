"""The memory hook inside a real Open WebUI, against a webhook that works and one that fails."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.real
