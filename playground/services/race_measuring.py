"""What a race measures of an adapter that its run does not: whether replies keep the format, and what was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.data.example import Example, Message, Preference
from playground.data.render import encode, render_prompt
from playground.data.split import part
from playground.engine.request import Sampling
from playground.errors import CancelledError
from playground.evaluation.checks import parse_check
from playground.library.card import AdapterCard
from playground.services.bases import BaseService
from playground.services.batches import Asked, Batches
from playground.services.data import DataService
from playground.services.forgetting import ForgettingService
from playground.services.sessions import LOCAL
from playground.training.spec import RunSpec

ROWS = 16
"""Validation rows that are answered: enough to tell 0 from 16, little enough for two cores."""
SHORTEST, LONGEST = 32, 256
"""Tokens that a reply may take: a quarter more than the file's own answers need, within these."""

Tell = Callable[[str], None]


class Measuring:
    """``stop`` is asked between steps; where it says so, CancelledError is raised and the device is free again."""

    def __init__(self, bases: BaseService, data: DataService, batches: Batches, forgetting: ForgettingService) -> None:
        self._bases, self._data, self._batches, self._forgetting = bases, data, batches, forgetting

    def adherence(
        self, card: AdapterCard | None, spec: RunSpec, check: str, session: str, tell: Tell, stop: Callable[[], bool]
    ) -> tuple[int, int]:
        """(greedy replies to the run's validation rows that pass the check, of how many). card: None = the base."""
        asked, passes = self._prompts(spec), parse_check(check).passes
        if not asked:
            return 0, 0
        answer = min(LONGEST, max(SHORTEST, spec.answer_max * 5 // 4))
        context, tokenizer = self._bases.context(), self._bases.tokenizer()
        prompts = [render_prompt(tokenizer, messages) for messages in asked]
        if context is not None:
            before = card.virtual_tokens if card else 0
            answer = max(1, min(answer, context - before - max(len(encode(tokenizer, prompt)) for prompt in prompts)))
        rows = [Asked(card, prompt, Sampling(max_tokens=answer)) for prompt in prompts]
        written: list[Any] = []
        for written in _until(self._batches.run(rows, session, "measure"), stop):
            if failure := next((one.failure for one in written if one.failure is not None), None):
                raise failure
            tell(written[0].waiting or f"{sum(one.done for one in written)} of {len(rows)} replies")
        return sum(passes(one.state.text) for one in written), len(written)

    def forgot(self, card: AdapterCard, session: str, tell: Tell, stop: Callable[[], bool]) -> dict[str, Any]:
        """``Forgetting`` as a record."""
        found: Any = None
        for found in _until(self._forgetting.measure([card], session), stop):
            tell(found.waiting or f"what it forgot, {found.done} of {found.of}")
        record: dict[str, Any] = asdict(found.found[0])
        return record

    def _prompts(self, spec: RunSpec) -> list[tuple[Message, ...]]:
        """Of the run's validation rows; none of raw text, which asks nothing. Raises InputError."""
        checked = self._data.check(Path(spec.file), spec.mapping or None, LOCAL)
        rows = part(checked.usable, spec.split.get("validation", []))
        return [row.prompt for row in rows if isinstance(row, Example | Preference)][:ROWS]


def _until(steps: Any, stop: Callable[[], bool]) -> Generator[Any, None, None]:
    try:
        for step in steps:
            if stop():
                raise CancelledError("The race was cancelled.")
            yield step
    finally:
        steps.close()
