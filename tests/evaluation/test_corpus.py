"""BLEU and chrF: the figures from summed counts are what sacrebleu gives for those sentences."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.evaluation.corpus import bleu, chrf

REPLIES = ["the cat sat on the mat today", "there is a dog here", "", "one two three four five", "hi", "Größe 3,5 ist gut."]
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


def test_bleu_by_hand() -> None:
    # 5 of 5 words, 4 of 4 pairs, 3 of 3, 2 of 2; one word short of 6: brevity exp(1 - 6/5)
    assert bleu(["a b c d e"], ["a b c d e f"])[1].figure() == pytest.approx(100 * np.exp(-0.2))
    assert bleu(["a b c"], ["a b c"])[1].figure() == 0  # no run of four words: undefined, reported as 0
    assert bleu(["a b c"], ["a b c"])[0] == [pytest.approx(100)]


@pytest.mark.parametrize(("score", "plain"), [(bleu, sacrebleu.corpus_bleu), (chrf, sacrebleu.corpus_chrf)])
def test_any_drawing_of_examples_gives_what_sacrebleu_gives_for_it(score, plain) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    tally = score(REPLIES, REFERENCES)[1]
    for _ in range(30):
        drawn = rng.integers(0, len(REPLIES), size=rng.integers(1, 7))
        expected = plain([REPLIES[at] for at in drawn], [[REFERENCES[at] for at in drawn]]).score
        assert float(tally.pool(tally.rows[drawn].sum(axis=0))) == pytest.approx(expected, abs=1e-9)


TEXT = st.text(alphabet="ab c.é猫", max_size=15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_text(pairs: list[tuple[str, str]]) -> None:
    replies, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert bleu(replies, references)[1].figure() == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score)
    assert chrf(replies, references)[1].figure() == pytest.approx(sacrebleu.corpus_chrf(replies, [references]).score)
