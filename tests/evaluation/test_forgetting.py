"""Forgetting and refusals: the shipped questions, reading a reply, pooling and words."""

import pytest

from playground.engine.request import Score
from playground.evaluation import forgetting
from playground.evaluation.forgetting import Forgetting, is_refusal, is_right, marks, material
from playground.verdict.losses import pooled
from tests.evaluation.helpers import cases


@pytest.mark.parametrize(("reply", "answers", "holds"), cases("right"))
def test_a_reply_is_right_when_the_answer_is_a_word_of_it(reply, answers, holds):
    assert is_right(reply, answers) is holds


def test_the_material_is_whole_and_every_answer_is_right_to_its_own_question_which_does_not_give_it_away():
    found, asked = material(), forgetting.questions()
    assert len(found.texts) == len(set(found.texts)) == 40
    assert len({one.question for one in found.questions}) == len(found.questions) == 40
    assert all(120 < len(text) < 400 for text in found.texts)
    assert all(one.answers and all(answer.strip() for answer in one.answers) for one in found.questions)
    assert len(found.sha256) == 64
    assert len(set(asked)) == len(asked) == 20
    assert all(text.endswith("?") for text in asked)
    questions = material().questions
    assert [one.question for one in questions if is_right(one.question, one.answers)] == []
    for place in range(max(len(one.answers) for one in questions)):
        replies = [f"It is {one.answers[min(place, len(one.answers) - 1)]}, I think." for one in questions]
        assert all(marks(replies, questions))


def test_pooling_weighs_by_tokens_and_what_was_forgotten_has_an_interval_over_pairs_and_words():
    found = pooled([Score(10, 1.0, 0.5, 2.0), Score(30, 2.0, 0.1, 4.0)])
    assert (found.tokens, found.loss, found.base_loss) == (40, 1.75, 3.5)
    assert found.divergence == pytest.approx(0.2)
    assert pooled([Score(1, 1.0, 0.1, 1.0), Score(1, 1.0)]).divergence is None
    assert pooled([]).loss == 0.0
    before, after = [True] * 20 + [False] * 20, [True] * 12 + [False] * 28
    value, low, high = forgetting.lost(before, after)
    assert (value, low, high) == pytest.approx((20.0, 6.5, 32.2), abs=0.1)
    assert forgetting.lost(before, before)[2] == pytest.approx(4.7, abs=0.1), "not shown is not none"
    grown, low, high = forgetting.harder([(3.0, 3.5, 10), (2.0, 2.6, 30), (4.0, 4.4, 20)])
    assert grown == pytest.approx((5 + 18 + 8) / 60)
    assert 0.39 < low <= grown <= high < 0.61
    said = Forgetting(3.0, 3.5, 100, 20, 12, 40, 0.3, "", (0.5, 0.4, 0.6), (20.0, 8.5, 34.0)).words
    assert "0.50 nats a token (0.40 to 0.60)" in said
    assert "points lost: 8 to 34" in said
    assert forgetting.lost([], []) == forgetting.harder([]) == ()
    said = "General text is harder by 0.50 nats a token; 12 of 40 general questions are answered rightly, 20 before."
    assert Forgetting(3.0, 3.5, 100, 20, 12, 40, 0.3).words == said, "where it has no interval"
    assert "easier by 0.10" in Forgetting(3.0, 2.9, 100, 20, 20, 40).words
    assert "as easy for it as before" in Forgetting(3.0, 3.01, 100, 20, 20, 40).words


def test_a_refusal_is_told_from_an_answer_and_counted_with_an_interval():
    says_so, answers = cases("refusals"), cases("answers")
    assert [reply for reply in says_so if not is_refusal(reply)] == []
    assert [reply for reply in answers if is_refusal(reply)] == []
    found = forgetting.refusals([*says_so[:3], *answers])
    assert (found["asked"], found["refused"]) == (10, 3)
    assert (found["low"], found["high"]) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert "3 of 10" in found["words"]
    assert "answered all 7" in forgetting.refusals(answers)["words"]
