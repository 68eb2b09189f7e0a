from __future__ import annotations

from pathlib import Path

import pytest

from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(tmp_path)


@pytest.fixture
def me() -> Visitor:
    return Visitor("local", "tab-1")
