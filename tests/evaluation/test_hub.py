"""The ``evaluate`` classes: the figures are ours, they combine, and nothing is fetched or written."""

from __future__ import annotations

import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest

from playground.evaluation import hub
from playground.evaluation.checks import parse_check
from playground.evaluation.metrics import metrics_for
from tests.evaluation.make import rows

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
        hub.ExactMatch(),
        hub.TokenF1(),
        hub.RougeL(),
        hub.Bleu(),
        hub.Chrf(),
        hub.LabelAccuracy(),
        hub.MacroF1(["no", "yes"]),
    ):
        assert metric.compute(predictions=REPLIES, references=REFERENCES) == {metric.key: pytest.approx(ours[metric.key].pooled)}
        assert metric.description
    found = hub.FormatAdherence("ends-with:.").compute(predictions=REPLIES, references=REFERENCES)
    assert found == {"format_adherence": pytest.approx(1 / 6)}
    assert not nowhere.exists()


def test_they_combine_and_take_one_at_a_time(nowhere: Path) -> None:
    both = evaluate.combine([hub.ExactMatch(), hub.TokenF1(), hub.FormatAdherence("max-words:1")])
    for reply, reference in zip(REPLIES, REFERENCES, strict=True):
        both.add(prediction=reply, reference=reference)
    whole = both.compute()
    assert whole == {
        "exact_match": pytest.approx(2 / 6), "token_f1": pytest.approx((1 + 1 + 0 + 0.5 + 0 + 1) / 6),
        "format_adherence": pytest.approx(5 / 6),
    }  # fmt: skip
    assert both.compute(predictions=REPLIES, references=REFERENCES) == whole
    assert not nowhere.exists()


def test_those_that_take_something_else(nowhere: Path) -> None:
    repeats = [["a", "a", "b"], ["x"], ["c", "c", "c"]]
    assert hub.Consistency().compute(predictions=repeats) == {"consistency": pytest.approx((1 / 3 + 1) / 2)}
    assert hub.Groundedness().compute(predictions=["Take 5 apples", "!"], references=[["There are 5 pears."], ["."]]) == {
        "groundedness": pytest.approx(1 / 3)
    }
    assert hub.Refused().compute(predictions=["I do not know.", "It is blue."]) == {"refused": 0.5}
    assert hub.Perplexity().compute(predictions=[0.0, 2.0]) == {"perplexity": pytest.approx(2.718281828)}
    assert np.isnan(hub.Consistency().compute(predictions=[["x"]])["consistency"])
    assert "lists of strings" in hub.Groundedness().inputs_description
    assert not nowhere.exists()
