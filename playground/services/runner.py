"""Where decoding and training happen: here and in a child process, or as ZeroGPU wants it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

from playground.engine.request import Row, RowState

TOGETHER = 48
"""Replies under one lease. The engine writes ``ROWS_MAX`` of them at once and begins the next as one ends, so that few steps run with
an empty place; more would keep a run that waits for the device waiting."""


class Decoder(Protocol):
    """Decodes rows with an engine, and tells where. together: how many it is given at most."""

    together: int

    def stream(self, engine: Any, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        """As ``Engine.stream``."""
        ...

    def where(self, engine: Any) -> tuple[str, str]:
        """(precision, device), as a stamp names them."""
        ...


class Direct:
    """In this process."""

    together = TOGETHER

    def stream(self, engine: Any, rows: Sequence[Row]) -> Generator[list[RowState], None, None]:
        stream: Generator[list[RowState], None, None] = engine.stream(rows)
        return stream

    def where(self, engine: Any) -> tuple[str, str]:
        return str(engine.loaded.dtype).removeprefix("torch."), str(engine.loaded.device)


class Workers(Protocol):
    """Starts, recognises and stops what trains; the module ``processes`` is one. tokens_per_s: how fast it is before any run has
    been measured, None = as the estimate knows it."""

    tokens_per_s: float | None

    def refused(self, seconds: float) -> str:
        """Why a run that takes so long cannot be started, or ""."""
        ...

    def start_worker(self, run_dir: Path, database: Path, attempt: int) -> tuple[int, float]:
        """(a number to know it by, when it began)."""
        ...

    def is_alive(self, pid: int | None, start: float | None) -> bool: ...

    def stop(self, pid: int, *, hard: bool) -> None: ...

    def activity(self, pid: int) -> tuple[float, bool]:
        """(a number that stands still while nothing is done, whether it only waits just now)."""
        ...
