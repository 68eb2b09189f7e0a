"""Exact match, token F1 and ROUGE-L against cases worked by hand, and against rouge-score called plainly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from playground.evaluation.overlap import exact_match, rouge_l, token_f1
from playground.evaluation.text import words


@pytest.mark.parametrize(
    ("reply", "reference", "value"),
    [("  a  b\n", "a b", 1), ("a b", "A b", 0), ("a b.", "a b", 0), ("", "", 1), ("ab", "a b", 0)],
)
def test_exact_match(reply: str, reference: str, value: float) -> None:
    assert exact_match(reply, reference) == value


@pytest.mark.parametrize(
    ("reply", "reference", "value"),
    [
        ("The cat sat.", "a cat sat", 1),  # articles, case and punctuation fall away
        ("cat dog", "cat", 2 * 1 / 3),
        ("cat cat", "cat", 2 * 1 / 3),  # the second one is one too many
        ("x y", "a b", 0),  # b against x, y: nothing shared
        ("", "the", 1),  # no word on either side
        ("", "cat", 0),
        ("“Ja”, sagte er", "ja sagte sie", 2 * 2 / 6),
        ("我喜欢猫", "我喜欢狗", 2 * 3 / 8),
    ],
)
def test_token_f1(reply: str, reference: str, value: float) -> None:
    assert token_f1(reply, reference) == pytest.approx(value)


def test_rouge_l_by_hand() -> None:
    # longest common subsequence of "the cat is on the mat" and "the cat sat on a mat": the, cat, on, mat
    assert rouge_l("the cat is on the mat", "the cat sat on a mat") == pytest.approx(4 / 6)
    assert rouge_l("", "a") == 0


PLAIN = st.text(alphabet="abcd AB.,'3", max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(PLAIN, PLAIN)
def test_rouge_l_is_what_rouge_score_gives(reply: str, reference: str) -> None:
    plain = RougeScorer(["rougeL"]).score(reference, reply)["rougeL"].fmeasure
    assert rouge_l(reply, reference) == pytest.approx(plain)


def test_rouge_l_reads_other_scripts() -> None:
    assert rouge_l("Größe über alles", "größe über alles") == 1
    assert rouge_l("врач осмотрел", "врач осмотрел пациента") == pytest.approx(2 * 2 / 5)
    assert words("猫とdog") == ["猫", "と", "dog"]


TEXT = st.text(max_size=20)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(TEXT, TEXT)
def test_all_lie_between_nothing_and_all(reply: str, reference: str) -> None:
    for metric in (exact_match, token_f1, rouge_l):
        assert 0 <= metric(reply, reference) <= 1
    assert token_f1(reply, reference) == token_f1(reference, reply)
    assert exact_match(reply, reply) == token_f1(reply, reply) == 1
