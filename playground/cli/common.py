"""What several verbs share: progress on stderr, the services with the chosen base, the lock on the home folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from playground.services.container import Services
from playground.services.home import Home, HomeTaken
from playground.settings import Settings


class Progress:
    """One line on stderr that is rewritten on a terminal, and appended at most every two seconds elsewhere."""

    def __init__(self) -> None:
        self._last, self._at = "", 0.0
        self._live = sys.stderr.isatty()

    def say(self, words: str, *, always: bool = False) -> None:
        if words == self._last or (not self._live and not always and time.monotonic() - self._at < 2):
            return
        self._last, self._at = words, time.monotonic()
        print(f"\r\x1b[2K{words}" if self._live else words, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live and self._last:
            print(file=sys.stderr)
        self._last = ""

    def base(self, phase: str, done: int, total: int) -> None:
        """For ``bases.resolve``."""
        if phase == "fetching" and total:
            self.say(f"Fetching the base, {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        else:
            self.say(f"{phase.capitalize()} the base{', about 50 s, once' if phase == 'converting' else ''}")


def services_for(settings: Settings, base: str | None = None) -> Services:
    """All services, on ``base`` if one is named."""
    return Services(replace(settings, base=base) if base else settings)


@contextlib.contextmanager
def owned_or_served(settings: Settings) -> Iterator[Home | None]:
    """Hold the home's lock while a verb computes; yields None where an app serves this home and does the work instead."""
    try:
        home = Home.take(settings)
    except HomeTaken:
        yield None
        return
    try:
        yield home
    finally:
        home.release()
