"""What a run may begin with and be rewarded by: adapters of the person's own on the same base, and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, parse_check, schema_file
from playground.library.base_shapes import BaseShapes
from playground.library.card import AdapterCard
from playground.library.safety import check_folder
from playground.methods.options import Options
from playground.training.spec import REWARD_MODEL

_LIKE = {"qlora": "lora"}
"""What is an adapter of another method once it is trained."""


class _Asked(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def options(self) -> Options: ...


def begins_with(request: _Asked, objective: str, card: AdapterCard, base: BaseShapes) -> AdapterCard:
    """The adapter that a run goes on from. Raises InputError, or AdapterError where it was trained on another base."""
    faults = []
    if card.objective == "reward" or objective == "reward":
        faults.append("reward models begin at the base, and nothing else begins with one")
    if _LIKE.get(card.method, card.method) != _LIKE.get(request.method, request.method):
        faults.append(f"it is {card.method} and the run {request.method}; choose --method {card.method}")
    if request.rank and card.rank and request.rank != card.rank:
        faults.append(f"its rank is {card.rank}, not {request.rank}; leave the rank out")
    if request.options.chosen():
        faults.append(f"{', '.join(request.options.chosen())} can only be set for a new adapter")
    if faults:
        raise InputError(f"A run cannot begin with {card.id}: {'; '.join(faults)}.")
    _same_base(card, base, "begin with")
    return card


def rewarded_by(
    rewards: Sequence[str], objective: str, find: Callable[[str], AdapterCard], base: BaseShapes, *, files: bool = True
) -> dict[str, str]:
    """Reward -> the path that it names, "" for none. files: as in ``parse_check``. Raises InputError, or AdapterError for a reward model of another base."""
    if objective != "grpo":
        if rewards:
            raise InputError(f"{objective} learns from its rows and takes no reward. grpo does (--objective grpo).")
        return {}
    if not rewards:
        raise InputError(
            "grpo needs to know what a reply is worth: --reward contains:TEXT or another check (several count in equal parts), or "
            "--reward model=ID for a reward model that was trained here."
        )
    found: dict[str, str] = {}
    for reward in rewards:
        if reward.startswith(REWARD_MODEL):
            card = find(reward.removeprefix(REWARD_MODEL))
            if card.objective != "reward":
                raise InputError(f"{card.id} writes replies and scores none. Train a reward model: --objective reward.")
            _same_base(card, base, "be rewarded by")
            found[reward] = str(card.path)
            continue
        parse_check(reward, files=files)
        file = schema_file(reward)
        found[f"{SCHEMA}{file.name}" if file else reward] = str(file.expanduser().absolute()) if file else ""
    return found


def _same_base(card: AdapterCard, base: BaseShapes, what: str) -> None:
    if card.base_fingerprint and base.fingerprint and card.base_fingerprint != base.fingerprint:
        raise InputError(f"A run on this base cannot {what} {card.id}, which was trained on another base ({card.base}).")
    if card.kind == "peft":
        check_folder(card.path, base)
