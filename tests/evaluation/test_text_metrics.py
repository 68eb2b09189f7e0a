"""Likeness, labels, BLEU and chrF, repeats and passages: by hand, and against rouge-score, sacrebleu and
scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score

from playground.evaluation.checks import parse_check
from playground.evaluation.text_metrics import (
    accuracy,
    bleu,
    chrf,
    consistency,
    exact_match,
    groundedness,
    label_in,
    labels_of,
    macro_f1,
    rouge_l,
    token_f1,
    words,
    worst,
)


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
        (
            "I think it is the exchange rate of today.",
            "exchange_rate",
        ),  # 3: the shorter one only stands inside the longer
        ("card_arrival or card_linking", None),
        ("the crate", None),
        ("", None),
    ],
)
def test_which_label_a_reply_gives(reply: str, label: str | None) -> None:
    assert label_in(reply, LABELS) == label


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


REPLIES = [
    "the cat sat on the mat today",
    "there is a dog here",
    "",
    "one two three four five",
    "hi",
    "Größe 3,5 ist gut.",
]
REFERENCES = [
    "the cat is on the mat today",
    "there was a dog here",
    "something",
    "one two three four six",
    "hi",
    "Größe 3.5 ist gut.",
]


def test_the_figures_are_sacrebleus() -> None:
    assert bleu(REPLIES, REFERENCES)[1].figure() == pytest.approx(sacrebleu.corpus_bleu(REPLIES, [REFERENCES]).score)
    assert chrf(REPLIES, REFERENCES)[1].figure() == pytest.approx(sacrebleu.corpus_chrf(REPLIES, [REFERENCES]).score)
    for at, (reply, reference) in enumerate(zip(REPLIES, REFERENCES, strict=True)):
        assert bleu(REPLIES, REFERENCES)[0][at] == pytest.approx(sacrebleu.sentence_bleu(reply, [reference]).score)
        assert chrf(REPLIES, REFERENCES)[0][at] == pytest.approx(sacrebleu.sentence_chrf(reply, [reference]).score)


@pytest.mark.parametrize(("score", "plain"), [(bleu, sacrebleu.corpus_bleu), (chrf, sacrebleu.corpus_chrf)])
def test_any_drawing_of_examples_gives_what_sacrebleu_gives_for_it(score, plain) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    tally = score(REPLIES, REFERENCES)[1]
    for _ in range(30):
        drawn = rng.integers(0, len(REPLIES), size=rng.integers(1, 7))
        expected = plain([REPLIES[at] for at in drawn], [[REFERENCES[at] for at in drawn]]).score
        assert float(tally.pool(tally.rows[drawn].sum(axis=0))) == pytest.approx(expected, abs=1e-9)


SHORT = st.text(alphabet="ab c.é猫", max_size=15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(SHORT, SHORT), min_size=1, max_size=4))
def test_any_text(pairs: list[tuple[str, str]]) -> None:
    replies, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert bleu(replies, references)[1].figure() == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score)
    assert chrf(replies, references)[1].figure() == pytest.approx(sacrebleu.corpus_chrf(replies, [references]).score)


@pytest.mark.parametrize(
    ("repeats", "labels", "share"),
    [
        (("a", "a ", "b"), None, 1 / 3),
        (("a", "a", "a", "b"), None, 3 / 6),
        (("a", "b"), None, 0),
        (("a",), None, None),
        ((), None, None),
        (("It is yes.", "yes"), ["yes", "no"], 1),
        (("It is yes.", "yes"), None, 0),
    ],
)
def test_consistency(repeats: tuple[str, ...], labels: list[str] | None, share: float | None) -> None:
    assert consistency(repeats, labels) == (None if share is None else pytest.approx(share))


def test_the_worst_of_several() -> None:
    check = parse_check("ends-with:end")
    assert worst(check, ("the end", "end")) == 1
    assert worst(check, ("the end", "start", "end")) == 0
    assert worst(check, ()) is None


@pytest.mark.parametrize(
    ("reply", "passages", "share"),
    [
        ("The lamp costs 40 euros.", ["A lamp is 40 euros"], 3 / 4),  # lamp, 40, euros; not costs
        ("It is by Ann.", ["Ann made it"], 1),  # a name counts at any length
        ("Ann is it.", [], None),  # three letters at the start of a sentence: no name, no content word
        ("Pulse 90, pressure 110/70", ["pressure of 110/70"], 2 / 4),
        ("Returns within 14 days.", ["a return is possible", "for 14 days"], 1),
        ("It was so.", ["anything"], None),
        ("Zebras run", ["no such animal"], 0),
    ],
)
def test_groundedness(reply: str, passages: list[str], share: float | None) -> None:
    assert groundedness(reply, passages) == (None if share is None else pytest.approx(share))
