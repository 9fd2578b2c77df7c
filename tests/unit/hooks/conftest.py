"""Fixtures of the tests of the hooks."""

from __future__ import annotations

from typing import Any

import pytest
from support.padded_models import NAMES, tiny


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, tiny(request.param)
