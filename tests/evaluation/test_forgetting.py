from __future__ import annotations

import pytest

from playground.evaluation.forgetting import Forgetting, Scored, is_right, material, pooled, right


def test_the_material_is_whole_and_each_item_is_there_once() -> None:
    found = material()
    assert len(found.texts) == len(set(found.texts)) == 40
    assert len({one.question for one in found.questions}) == len(found.questions) == 40
    assert all(120 < len(text) < 400 for text in found.texts)
    assert all(one.answers and all(answer.strip() for answer in one.answers) for one in found.questions)
    assert len(found.sha256) == 64


def test_no_question_gives_its_answer_away() -> None:
    for one in material().questions:
        assert not is_right(one.question, one.answers), one.question


@pytest.mark.parametrize(
    ("reply", "answers", "holds"),
    [
        ("The capital of France is Paris.", ["Paris"], True),
        ("paris", ["Paris"], True),
        ("Parisian streets", ["Paris"], False),
        ("It is 14.", ["4", "four"], False),
        ("4", ["4"], True),
        ("2 + 2 = 4.", ["4"], True),
        ("The answer is **mice**", ["mice"], True),
        ("H2O is water", ["water"], True),
        ("", ["x"], False),
        ("a.b", ["a+b"], False),
    ],
)
def test_a_reply_is_right_when_the_answer_is_a_word_of_it(reply: str, answers: list[str], holds: bool) -> None:
    assert is_right(reply, answers) is holds


def test_every_answer_is_right_to_its_own_question() -> None:
    questions = material().questions
    for place in range(max(len(one.answers) for one in questions)):
        replies = [f"It is {one.answers[min(place, len(one.answers) - 1)]}, I think." for one in questions]
        assert right(replies, questions) == len(questions)


def test_pooling_weighs_by_tokens() -> None:
    found = pooled([Scored(10, 1.0, 2.0, 0.5), Scored(30, 2.0, 4.0, 0.1)])
    assert (found.tokens, found.loss, found.base_loss) == (40, 1.75, 3.5)
    assert found.divergence == pytest.approx(0.2)
    assert pooled([Scored(1, 1.0, 1.0, 0.1), Scored(1, 1.0)]).divergence is None
    assert pooled([]).loss == 0.0


def test_words_say_which_way_it_went() -> None:
    worse = Forgetting(3.0, 3.5, 100, 20, 12, 40, 0.3)
    assert worse.loss_change == 0.5
    assert (worse.accuracy_before, worse.accuracy_after) == (0.5, 0.3)
    assert worse.words == (
        "General text is harder by 0.50 nats a token; 12 of 40 general questions are answered rightly, 20 before."
    )
    assert "easier by 0.10" in Forgetting(3.0, 2.9, 100, 20, 20, 40).words
    assert "as easy for it as before" in Forgetting(3.0, 3.01, 100, 20, 20, 40).words
