"""One side's metrics by name: which are there, in what order, and how they are pooled."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest

from playground.evaluation import metrics
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
        ["yes", "no", "no"],
        ["yes", "no", "yes"],
        loss=[0.1, 0.2, 0.6],
        repeats=[("yes", "yes"), ("no", "yes"), ()],
        passages=[("yes it is so",), (), ("nothing",)],
    )
    found = metrics_for(answered, [parse_check("max-words:1"), parse_check("contains:yes")], ["no", "yes"])
    assert list(found) == [
        "max-words:1",
        "contains:yes",
        "worst:max-words:1",
        "worst:contains:yes",
        "accuracy",
        "macro_f1",
        *PLAIN,
        "consistency",
        "loss",
        "perplexity",
        *LAST,
    ]
    assert found["contains:yes"].values == (1, 0, 0)
    assert found["worst:contains:yes"].values == (1, 0, None)
    assert found["worst:contains:yes"].pooled == 0.5
    assert found["consistency"].values == (1, 0, None)
    assert found["accuracy"].pooled == pytest.approx(2 / 3)
    assert found["macro_f1"].values == (None, None, None)
    assert found["loss"].pooled == pytest.approx(0.3)
    assert found["perplexity"].pooled == pytest.approx(math.exp(0.3))
    assert not found["perplexity"].higher_is_better


def test_half_a_surrogate_pair_is_measured() -> None:
    assert metrics_for(rows(["a \ud800"], ["a"]))["token_f1"].pooled == 1.0


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


REPLIES = ["yes", "no.", "yes", "I say yes", "maybe", "no"]
REFERENCES = ["yes", "no", "no", "yes", "no", "no"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and a cache folder that shows what was written to it."""

    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_each_gives_the_figure_of_metrics_for(nowhere: Path) -> None:
    ours = metrics_for(rows(REPLIES, REFERENCES), [parse_check("ends-with:.")], ["no", "yes"])
    for metric in (
        metrics.ExactMatch(),
        metrics.TokenF1(),
        metrics.RougeL(),
        metrics.Bleu(),
        metrics.Chrf(),
        metrics.LabelAccuracy(),
        metrics.MacroF1(["no", "yes"]),
    ):
        assert metric.compute(predictions=REPLIES, references=REFERENCES) == {
            metric.key: pytest.approx(ours[metric.key].pooled)
        }
        assert metric.description
    found = metrics.FormatAdherence("ends-with:.").compute(predictions=REPLIES, references=REFERENCES)
    assert found == {"ends-with:.": pytest.approx(1 / 6)}
    assert not nowhere.exists()


def test_they_combine_and_take_one_at_a_time(nowhere: Path) -> None:
    both = evaluate.combine([metrics.ExactMatch(), metrics.TokenF1(), metrics.FormatAdherence("max-words:1")])
    for reply, reference in zip(REPLIES, REFERENCES, strict=True):
        both.add(prediction=reply, reference=reference)
    whole = both.compute()
    assert whole == {
        "exact_match": pytest.approx(2 / 6),
        "token_f1": pytest.approx((1 + 1 + 0 + 0.5 + 0 + 1) / 6),
        "max-words:1": pytest.approx(5 / 6),
    }
    assert both.compute(predictions=REPLIES, references=REFERENCES) == whole
    assert not nowhere.exists()


def test_those_that_take_something_else(nowhere: Path) -> None:
    repeats = [["a", "a", "b"], ["x"], ["c", "c", "c"]]
    assert metrics.Consistency().compute(predictions=repeats) == {"consistency": pytest.approx((1 / 3 + 1) / 2)}
    assert metrics.Groundedness().compute(
        predictions=["Take 5 apples", "!"], references=[["There are 5 pears."], ["."]]
    ) == {"groundedness": pytest.approx(1 / 3)}
    assert metrics.Refused().compute(predictions=["I do not know.", "It is blue."]) == {"refused": 0.5}
    assert metrics.Perplexity().compute(predictions=[0.0, 2.0]) == {"perplexity": pytest.approx(2.718281828)}
    assert np.isnan(metrics.Consistency().compute(predictions=[["x"]])["consistency"])
    assert "lists of strings" in metrics.Groundedness().inputs_description
    assert not nowhere.exists()
