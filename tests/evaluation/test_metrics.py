"""One side's metrics by name: which are there, in what order, and how they are pooled."""

from __future__ import annotations

import math

import pytest

from playground.evaluation.checks import parse_check
from playground.evaluation.metrics import metrics_for
from tests.evaluation.make import rows

PLAIN = ["exact_match", "token_f1", "rouge_l", "bleu", "chrf"]
LAST = ["seconds", "prompt_tokens", "completion_tokens"]


def test_what_is_always_there() -> None:
    found = metrics_for(rows(["a b", "c"], ["a b", "d"]))
    assert list(found) == PLAIN + LAST
    assert found["exact_match"].values == (1, 0)
    assert found["exact_match"].pooled == 0.5
    assert [found[name].kind for name in ("exact_match", "token_f1", "bleu")] == ["yes-no", "mean", "corpus"]
    assert not found["seconds"].higher_is_better
    assert found["seconds"].pooled == 0.5


def test_what_is_there_when_it_can_be_measured() -> None:
    answered = rows(
        ["yes", "no", "no"], ["yes", "no", "yes"], loss=[0.1, 0.2, 0.6], repeats=[("yes", "yes"), ("no", "yes"), ()],
        passages=[("yes it is so",), (), ("nothing",)],
    )  # fmt: skip
    found = metrics_for(answered, [parse_check("max-words:1"), parse_check("contains:yes")], ["no", "yes"])
    assert list(found) == [
        "max-words:1", "contains:yes", "worst:max-words:1", "worst:contains:yes", "accuracy", "macro_f1", *PLAIN, "consistency",
        "loss", "perplexity", *LAST,
    ]  # fmt: skip
    assert found["contains:yes"].values == (1, 0, 0)
    assert found["worst:contains:yes"].values == (1, 0, None)
    assert found["worst:contains:yes"].pooled == 0.5
    assert found["consistency"].values == (1, 0, None)
    assert found["accuracy"].pooled == pytest.approx(2 / 3)
    assert found["macro_f1"].values == (None, None, None)
    assert found["loss"].pooled == pytest.approx(0.3)
    assert found["perplexity"].pooled == pytest.approx(math.exp(0.3))
    assert not found["perplexity"].higher_is_better


def test_a_loss_that_is_known_of_some_rows_is_theirs() -> None:
    found = metrics_for(rows(["a", "b", "c"], ["a", "b", "c"], loss=[0.1, None, 0.3]))
    assert (found["loss"].pooled, found["loss"].examples) == (pytest.approx(0.2), (0, 2))
    assert found["perplexity"].pooled == pytest.approx(math.exp(0.2))
    assert "loss" not in metrics_for(rows(["a"], ["a"], loss=[None]))


def test_values_come_in_the_order_of_the_examples() -> None:
    answered = rows(["a", "x", "c"], ["a", "b", "c"])[::-1]
    found = metrics_for(answered)["exact_match"]
    assert found.values == (1, 0, 1)
    assert found.examples == (0, 1, 2)


@pytest.mark.parametrize(
    "wrong",
    [[], rows(["a"], ["a"]) + rows(["a"], ["a"], side="other"), rows(["a"], ["a"]) * 2],
    ids=["none", "two sides", "twice"],
)
def test_rows_of_one_side_each_example_once(wrong: list) -> None:
    with pytest.raises(ValueError, match="one side"):
        metrics_for(wrong)
