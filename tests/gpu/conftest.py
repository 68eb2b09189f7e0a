from dataclasses import dataclass

import pytest

clock = pytest.fixture(lambda: Clock())


@dataclass
class Clock:
    """Stands still until a test sets it on."""

    now_s: float = 100.0

    def __call__(self):
        return self.now_s


@dataclass
class FixedDevice:
    total_bytes: int = 16 * 10**9
    free_bytes: int = 16 * 10**9
    name: str = "fixed"
    kind: str = "fixed"
