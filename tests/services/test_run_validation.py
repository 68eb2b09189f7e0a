"""What a run may begin with and be rewarded by: judged from cards and words alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from playground.errors import InputError
from playground.library.bases import BaseShapes
from playground.library.card import AdapterCard
from playground.methods.method import Options
from playground.runs.planner import begins_with, rewarded_by
from playground.runs.request import TrainRequest

BASE = BaseShapes({}, {}, fingerprint="f" * 64)
CARD = AdapterCard(
    id="mine",
    name="Mine",
    method="lora",
    base="tiny",
    base_fingerprint="f" * 64,
    rank=8,
    bytes=1,
    sha256="0" * 64,
    rows=10,
    created_s=1.0,
    shipped=False,
    kind="full",
    path=Path("mine"),
    owner="local",
    trained_on="rows.jsonl",
    objective="sft",
)
REQUEST = TrainRequest(Path("rows.jsonl"))


def test_an_adapter_of_this_base_and_method_is_gone_on_from() -> None:
    assert begins_with(REQUEST, "grpo", CARD, BASE) is CARD
    assert begins_with(replace(REQUEST, method="qlora"), "dpo", CARD, BASE) is CARD, "QLoRA's adapter is a LoRA"


@pytest.mark.parametrize(
    ("request_changes", "card_changes", "objective", "words"),
    [
        ({}, {"base_fingerprint": "0" * 64, "base": "other"}, "sft", "trained on another base (other)"),
        ({"method": "dora"}, {}, "sft", "it is lora and the run dora; choose --method lora"),
        ({"rank": 4}, {}, "sft", "its rank is 8, not 4"),
        ({"options": Options(pissa=True)}, {}, "sft", "pissa can only be set for a new adapter"),
        ({}, {"objective": "reward"}, "grpo", "reward models begin at the base"),
        ({}, {}, "reward", "reward models begin at the base"),
    ],
)
def test_another_one_is_refused_in_words(request_changes: dict, card_changes: dict, objective: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        begins_with(replace(REQUEST, **request_changes), objective, replace(CARD, **card_changes), BASE)
    assert words in str(caught.value)


def test_rewards_are_checks_and_reward_models(tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    schema.write_text("{}")
    asked = ("json", f"json-schema:{schema}", "model=judge")
    found = rewarded_by(asked, "grpo", lambda id: replace(CARD, id=id, objective="reward"), BASE)
    assert found == {"json": "", "json-schema:s.json": str(schema), "model=judge": "mine"}, "the record names no folder"


@pytest.mark.parametrize(
    ("rewards", "objective", "words"),
    [
        ((), "grpo", "grpo needs to know what a reply is worth"),
        (("json",), "sft", "takes no reward"),
        (("polite",), "grpo", "is not a check"),
        (("model=mine",), "grpo", "mine writes replies and scores none"),
    ],
)
def test_what_cannot_reward_is_refused_in_words(rewards: tuple[str, ...], objective: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        rewarded_by(rewards, objective, lambda id: replace(CARD, id=id), BASE)
    assert words in str(caught.value)
