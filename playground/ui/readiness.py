"""Whether the base can answer yet. Asking a service for tokens earlier would make the page wait for the whole download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playground.errors import BaseUnavailableError


@dataclass(frozen=True)
class Ready:
    """yes: it can. words: else why not. mark: changes whenever another base answers."""

    yes: bool
    words: str
    mark: str


def ready(services: Any) -> Ready:
    state = services.bases.state()
    yes = state.phase == "ready"
    return Ready(yes, state.message, state.fingerprint if yes else "")


def require(services: Any) -> None:
    """Raises BaseUnavailableError with the state in words."""
    now = ready(services)
    if not now.yes:
        raise BaseUnavailableError(f"The base is not ready yet: {now.words}. The buttons wake up as soon as it is.")
