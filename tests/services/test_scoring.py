"""Scores and what was forgotten, through leases, on the tiny base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from playground.data.example import Message
from playground.engine.request import TOGETHER, Score
from playground.errors import InputError
from playground.evaluation.forgetting import material
from playground.library.card import AdapterCard
from playground.services import Services
from playground.verdict.losses import ToScore
from tests.services.conftest import whole_model


@pytest.fixture
def card(services: Services, make_lora: Callable[..., Path]) -> AdapterCard:
    return services.adapters.import_file(make_lora(3))


@pytest.fixture
def whole(services: Services, tiny_base: Path) -> AdapterCard:
    """A full fine-tune that is the base itself."""
    return services.adapters.get(whole_model(services, tiny_base))


def done(services: Services, asked: list[ToScore]) -> list[Score]:
    found = list(services.scoring.run(asked, "me"))[-1]
    assert found.done == len(asked)
    return [score for score in found.scores if score is not None]


def test_rows_of_base_adapter_and_full_model(services: Services, card: AdapterCard, whole: AdapterCard) -> None:
    prompt, answer = services.scoring.rendered([Message("user", "Say 3")], "Three, gladly.")
    assert "named SmolLM" in prompt
    assert answer == "Three, gladly.<|im_end|>"
    base, tuned, full = done(services, [ToScore(one, prompt, answer, divergence=True) for one in (None, card, whole)])
    assert base.divergence is None
    assert tuned.base_loss == pytest.approx(base.loss, abs=1e-5)
    assert tuned.divergence is not None
    assert tuned.divergence > 0
    assert tuned.loss != pytest.approx(base.loss, abs=1e-3)
    assert full.divergence is None, "two models are never in memory for it"
    assert (full.loss, full.base_loss) == pytest.approx((base.loss, base.loss), abs=1e-4)
    assert services.manager.leases() == []


def test_it_can_be_stopped_between_batches(services: Services, card: AdapterCard) -> None:
    asked = [ToScore(card, "One, ", f"two, {n}") for n in range(3 * TOGETHER)]
    run = services.scoring.run(asked, "me")
    while next(run).done < TOGETHER:
        pass
    assert len(services.manager.leases()) == 1
    run.close()
    assert services.manager.leases() == []


def test_it_waits_its_turn_and_says_so(services: Services, card: AdapterCard) -> None:
    other = services.manager.request("measure", "other", "Answering", 0)
    run = services.scoring.run([ToScore(None, "One, ", "two")], "me")
    assert next(run).waiting == ""
    assert "1st in line" in next(run).waiting
    other.cancel()
    assert list(run)[-1].done == 1


def test_a_row_that_cannot_be_scored_frees_the_device(services: Services) -> None:
    with pytest.raises(InputError, match="nothing to score"):
        list(services.scoring.run([ToScore(None, "", "")], "me"))
    assert services.manager.leases() == []


def test_what_was_forgotten_is_measured_for_several_at_once(
    services: Services, card: AdapterCard, whole: AdapterCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(material(), texts=material().texts[:3], questions=material().questions[:9])
    monkeypatch.setattr("playground.verdict.losses.material", lambda: few)
    steps = list(services.forgetting.measure([card, whole]))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].of == 2 * 3 + 3 * 9, "the base is asked too"
    lora, same = steps[-1].found
    assert lora.loss_before == pytest.approx(same.loss_before, abs=1e-4)
    assert lora.loss_after != pytest.approx(lora.loss_before, abs=1e-3)
    assert lora.divergence is not None
    assert lora.divergence > 0
    assert same.loss_change == pytest.approx(0.0, abs=1e-4)
    assert same.right_before == same.right_after
    assert same.divergence is None
    assert "model of its own" in same.no_divergence
    again = list(services.forgetting.measure([card]))
    assert again[-1].of == 3 + 9, "the base's answers are known by now"
    assert again[-1].found[0] == lora
