"""Labels: when answers are labels, which one a reply gives, and accuracy and macro F1 as scikit-learn computes them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from playground.evaluation.labels import accuracy, label_in, labels_of, macro_f1

LABELS = ["card_arrival", "card_linking", "exchange_rate", "rate"]


@pytest.mark.parametrize(
    ("references", "labels"),
    [
        (["yes", "no"] * 3, ["no", "yes"]),
        (["Yes.", "yes", "yes", "no", "No", "no"], ["no", "yes"]),
        (["yes", "no"] * 2, None),  # 1: too few references
        (["one two three four five six seven eight nine", "no"] * 5, None),  # 2: too long
        (["a\nb", "no"] * 5, None),
        (["yes"] * 9, None),  # 3: only one
        (["a", "b", "c", "d", "a", "b"], None),  # 3: most occur once
        (["?", "a"] * 5, None),
    ],
)
def test_when_answers_are_labels(references: list[str], labels: list[str] | None) -> None:
    assert labels_of(references) == labels


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("card_arrival", "card_arrival"),  # 1
        (" Card arrival. ", "card_arrival"),
        ("**card-arrival**", "card_arrival"),
        ("exchange_rate\nBecause the customer asks for it.", "exchange_rate"),  # 2
        ("Category: rate\nThe exchange_rate is not meant.", "rate"),
        ("I think it is the exchange rate of today.", "exchange_rate"),  # 3: the shorter one only stands inside the longer
        ("card_arrival or card_linking", None),
        ("the crate", None),
        ("", None),
    ],
)
def test_which_label_a_reply_gives(reply: str, label: str | None) -> None:
    assert label_in(reply, LABELS) == label


def test_accuracy_and_macro_f1_by_hand() -> None:
    references = ["a", "a", "b", "b"]
    replies = ["a", "b", "b", "nonsense"]
    assert accuracy(replies, references, ["a", "b"]) == [1, 0, 1, 0]
    # a: 1 right, 1 given, 2 wanted -> 2/3; b: 1 right, 2 given, 2 wanted -> 1/2
    assert macro_f1(replies, references, ["a", "b"]).figure() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_scikit_learn_agrees() -> None:
    rng = np.random.default_rng(5)
    names = ["a", "b", "c", "d"]
    for _ in range(20):
        references = list(rng.choice(names, size=30))
        replies = list(rng.choice([*names, "something else"], size=30))
        assert np.mean(accuracy(replies, references, names)) == pytest.approx(accuracy_score(references, replies))
        present = sorted(set(references))
        expected = f1_score(references, replies, labels=present, average="macro", zero_division=0)
        assert macro_f1(replies, references, names).figure() == pytest.approx(expected)


def test_a_reference_outside_the_labels_is_one_that_no_reply_can_give() -> None:
    assert accuracy(["zebra"], ["zebra"], ["a", "b"]) == [0]
    assert macro_f1(["a", "zebra"], ["a", "zebra"], ["a", "b"]).figure() == pytest.approx(0.5)
