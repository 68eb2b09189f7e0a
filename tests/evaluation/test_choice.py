"""The choice, one test a rule. The main metric is a check; each side passes so many of 40."""

import pytest

from playground.errors import InputError
from playground.evaluation.comparison import CHANGES, NO_FACTS, Choice, Facts, Questions, SideKind, Table
from playground.evaluation.cost import SideCost
from playground.evaluation.decision import choose, main_metric
from tests.evaluation.helpers import passes, table

N = 40
KINDS: dict[str, SideKind] = {
    "base": "base",
    "prompt": "prompt",
    "few-shot": "few-shot",
    "documents": "documents",
    "tuned": "tuned",
    "both": "tuned+documents",
}

NO_QUESTIONS = Questions()


def decided(
    sides: dict[str, int],
    questions: Questions = NO_QUESTIONS,
    facts: Facts = NO_FACTS,
    n: int = N,
    tuned: float = 0.001,
    once: float = 1.0,
) -> Choice:
    """A choice by json, of which each side passes so many."""
    costs = {side: SideCost(tuned, once) if KINDS[side].startswith("tuned") else SideCost(0.002) for side in sides}
    kinds = {side: KINDS[side] for side in sides}
    return choose(
        table({side: {"json": passes(yes, n)} for side, yes in sides.items()}), "json", kinds, costs, questions, facts
    )


def said(choice: Choice) -> str:
    return " ".join(reason.text for reason in choice.reasons)


def test_1_too_few_examples():
    found = decided({"prompt": 1, "tuned": 9}, n=9)
    assert (found.choice, found.rule, found.rows_needed) == ("not-enough-evidence", 1, 10)
    assert "At least 10" in found.sentence
    nothing = choose(table({"prompt": {"json": passes(9, 40)}}), None, {"prompt": "prompt"}, {}, Questions())
    assert (nothing.choice, nothing.rule) == ("not-enough-evidence", 1)


def test_2_examples_that_were_trained_on_do_not_count():
    found = decided({"prompt": 20, "tuned": 40}, facts=Facts(overlap=3))
    assert (found.choice, found.rule) == ("prompt", 6)
    assert "3 of 40 test examples were trained on" in said(found)
    few = decided({"prompt": 20, "tuned": 40}, facts=Facts(overlap=2))
    assert few.choice == "fine-tune"
    assert "2 of 40" in said(few)


def test_2_slow_sides_are_set_aside():
    timed = {
        "prompt": {"json": passes(20, N), "seconds": [1.0] * N},
        "tuned": {"json": passes(N, N), "seconds": [3.0] * N},
    }
    kinds: dict[str, SideKind] = {"prompt": "prompt", "tuned": "tuned"}
    found = choose(table(timed), "json", kinds, {}, Questions(latency_s=2))
    assert found.choice == "prompt"
    assert "above your limit of 2 s" in said(found)
    assert found.reasons[0].link == "side|tuned|seconds"
    nobody = choose(table(timed), "json", kinds, {}, Questions(latency_s=0.5))
    assert nobody.choice == "fine-tune"
    assert "No side keeps to the limit" in said(nobody)


def test_2_a_limit_that_could_not_be_checked_is_said():
    kinds: dict[str, SideKind] = {"prompt": "prompt", "tuned": "tuned"}
    untimed = {"prompt": {"json": passes(20, N)}, "tuned": {"json": passes(N, N)}}
    found = choose(table(untimed), "json", kinds, {}, Questions(latency_s=2))
    assert found.choice == "fine-tune"
    assert "No side was timed, so your limit of 2 s could not be checked." in said(found)
    assert found.reasons[0].link == "question|latency_s"
    one = {"prompt": {"json": passes(20, N), "seconds": [3.0] * N}, "tuned": {"json": passes(N, N)}}
    found = choose(table(one), "json", kinds, {}, Questions(latency_s=2))
    assert "tuned was not timed, so your limit of 2 s could not be checked there." in said(found)
    assert "prompt takes 3.0 s" in said(found)
    assert "timed" not in said(choose(table(untimed), "json", kinds, {}, Questions()))


def test_3_a_shown_gain_makes_few_shot_or_documents_the_one_to_beat():
    assert decided({"base": 10, "prompt": 20, "few-shot": 36, "documents": 22}).choice == "few-shot"
    assert decided({"prompt": 20, "few-shot": 30, "documents": 36, "tuned": 37}).choice == "documents"
    assert decided({"base": 30, "prompt": 10}).choice == "prompt"  # a plain base that does it is no case for training
    assert decided({"base": 30, "prompt": 10}).side == "base"


def test_3_what_is_at_the_bar_by_itself_needs_no_shown_lead():
    found = decided({"base": 30, "prompt": 37, "few-shot": 40, "documents": 38, "tuned": 40})
    assert (found.choice, found.rule, found.side) == ("few-shot", 5, "few-shot")
    assert "few-shot (40 of 40) is 8 points ahead of prompt (37 of 40), which may be chance" in said(found)
    assert decided({"prompt": 38, "few-shot": 40}).choice == "prompt"  # at the bar already
    assert decided({"prompt": 8, "few-shot": 12}, n=12).rule == 7  # 12 of 12 is not at the bar
    assert decided({"prompt": 36, "few-shot": 37, "tuned": 40}).rule == 7  # nor is 37 of 40


def test_3_nothing_untuned_to_judge_by():
    found = decided({"tuned": 40})
    assert (found.choice, found.rule, found.runner_up) == ("not-enough-evidence", 3, "fine-tune")


BUSY = Questions(volume=1_000_000)


def test_4_as_good_and_much_cheaper():
    found = decided({"prompt": 39, "tuned": 39}, BUSY)
    assert (found.choice, found.rule, found.side) == ("fine-tune", 4, "tuned")
    assert "saves 12,000.00 USD a year" in said(found)
    for questions in (Questions(volume=10_000), Questions(), Questions(volume=1_000_000, changes="monthly")):
        assert decided({"prompt": 39, "tuned": 39}, questions).rule == 5
    assert decided({"prompt": 39, "tuned": 38}, BUSY).rule == 5  # behind
    assert decided({"prompt": 39, "tuned": 39}, BUSY, Facts(rows_trained=5)).choice == "prompt"
    assert decided({"prompt": 39, "tuned": 39}, BUSY, once=12_001).choice == "prompt"


def test_5_the_prompt_does_it():
    found = decided({"base": 0, "prompt": 38, "tuned": 40})
    assert (found.choice, found.rule, found.runner_up) == ("prompt", 5, "fine-tune")
    assert found.reasons[-1].number is not None
    assert (
        decided({"prompt": 12, "tuned": 12}, n=12).rule == 6
    )  # 12 of 12 is no proof of 95 %: its interval begins at 76 %


def test_6_no_gain():
    found = decided({"prompt": 20, "tuned": 21})
    assert (found.choice, found.rule) == ("prompt", 6)
    assert decided({"prompt": 20, "tuned": 2}).choice == "prompt"
    assert "not half of them" in said(decided({"prompt": 2, "tuned": 2}))
    assert decided({"prompt": 20}).sentence == "Keep the prompt: prompt reaches 20 of 40 on json."


def test_7_a_lead_that_may_be_chance():
    found = decided({"prompt": 20, "tuned": 24})
    assert (found.choice, found.rule, found.runner_up) == ("not-enough-evidence", 7, "fine-tune")
    assert found.rows_needed is not None
    assert found.rows_needed > N
    assert f"About {found.rows_needed} test examples" in found.sentence
    assert found.side is None
    assert decided({"prompt": 20, "few-shot": 24, "tuned": 20}).runner_up == "few-shot"


def test_8_too_few_or_poor_rows():
    sides = {"prompt": 10, "tuned": 38}
    few, poor = (
        decided(sides, facts=Facts(rows_trained=29)),
        decided(sides, facts=Facts(rows_trained=300, poor_share=0.3)),
    )
    assert (few.choice, few.rule, poor.choice, poor.rule) == ("prompt", 8, "prompt", 8)
    assert "29 rows" in few.sentence
    assert decided(sides, facts=Facts(rows_trained=30, poor_share=0.25)).choice == "fine-tune"


def test_9_the_task_changes_every_week():
    found = decided({"prompt": 10, "tuned": 38}, Questions(changes="weekly"))
    assert (found.choice, found.rule, found.runner_up) == ("prompt", 9, "fine-tune")


def test_10_training_costs_more_than_there_is():
    sides = {"prompt": 10, "tuned": 38}
    found = decided(sides, Questions(budget=99), once=100)
    assert (found.choice, found.rule) == ("prompt", 10)
    assert "100.00 USD" in found.sentence
    assert decided(sides, Questions(budget=100), once=100).choice == "fine-tune"


def test_11_a_modest_gain_that_is_never_paid_back():
    sides = {"prompt": 20, "tuned": 27}
    never = decided(sides, Questions(volume=1_000), tuned=0.003)
    assert (never.choice, never.rule) == ("prompt", 11)
    late = decided(sides, Questions(volume=1_000), once=13)  # 13,000 requests = 13 months
    assert (late.choice, late.rule) == ("prompt", 11)
    assert "13,000 requests" in late.sentence
    assert decided(sides, Questions(volume=1_000), once=12).choice == "fine-tune"
    assert decided(sides, Questions(volume=1_000, changes="monthly"), once=2).rule == 11
    assert (
        decided({"prompt": 10, "tuned": 38}, Questions(volume=1_000), tuned=0.003).choice == "fine-tune"
    )  # a big gain is worth it


@pytest.mark.parametrize(("prompt", "rule"), [(30, 12), (N, 5)])
def test_costs_that_are_not_known_are_said(prompt, rule):
    there = table({"prompt": {"json": passes(prompt, N)}, "tuned": {"json": passes(N, N)}})
    kinds: dict[str, SideKind] = {"prompt": "prompt", "tuned": "tuned"}
    known = {"prompt": SideCost(0.002), "tuned": SideCost(0.001, 1.0)}
    for asked, lacks, words in (
        (Questions(volume=10), ("tuned",), "What tuned costs is not known in full, so your volume"),
        (Questions(volume=10), ("tuned", "prompt"), "What tuned and prompt cost is not known in full, so your volume"),
        (Questions(budget=1), ("tuned",), "What tuned costs is not known in full, so your budget"),
    ):
        costs = {side: cost for side, cost in known.items() if side not in lacks}
        found = choose(there, "json", kinds, costs, asked)
        assert found.rule == rule
        assert words in said(found)
    untimed = {"tuned": known["tuned"]}
    assert "not known" not in said(choose(there, "json", kinds, untimed, Questions(budget=1))), (
        "what training costs is known"
    )
    assert "not known" not in said(choose(there, "json", kinds, {}, Questions()))


def test_12_fine_tune():
    found = decided({"base": 0, "prompt": 0, "few-shot": 1, "tuned": 40})
    assert (found.choice, found.rule, found.side, found.runner_up) == ("fine-tune", 12, "tuned", "prompt")
    assert found.sentence.startswith("Fine-tune: tuned reaches 40 of 40 on json, prompt 0 of 40.")
    assert [reason.link for reason in found.reasons] == ["pair|prompt|tuned|json", "side|tuned|json", "cost|tuned"]
    assert decided({"prompt": 0, "documents": 10, "tuned": 20, "both": 38}).choice == "fine-tune+documents"
    assert decided({"prompt": 20, "tuned": 21, "both": 28}).choice == "fine-tune+documents"


def test_a_metric_of_which_less_is_better():
    values = {"prompt": [2.0 + at / 100 for at in range(N)], "tuned": [1.0 + at / 90 for at in range(N)]}
    found = choose(
        table({side: {"loss": one} for side, one in values.items()}),
        "loss",
        {"prompt": "prompt", "tuned": "tuned"},
        {},
        Questions(),
    )
    assert (found.choice, found.rule) == ("fine-tune", 12)
    assert "ahead of prompt" in said(found)


def test_what_is_lost_beside_it_is_said():
    sides = {
        "prompt": {"json": passes(5, N), "rouge_l": [0.6 + at / 200 for at in range(N)]},
        "tuned": {"json": passes(N, N), "rouge_l": [0.3 + at / 300 for at in range(N)]},
    }
    found = choose(table(sides), "json", {"prompt": "prompt", "tuned": "tuned"}, {}, Questions())
    assert found.choice == "fine-tune"
    assert "behind prompt" in said(found)
    assert "on rouge_l" in said(found)
    assert len({reason.link for reason in found.reasons}) == len(found.reasons)


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["rouge_l", "worst:json", "ends-with:a:b", "json", "accuracy"], "ends-with:a:b"),
        (["rouge_l", "like-references", "accuracy"], "accuracy"),
        (["rouge_l", "like-references"], "like-references"),
        (["token_f1", "rouge_l"], "rouge_l"),
        (["token_f1", "seconds"], "token_f1"),
        (["seconds"], None),
    ],
)
def test_the_main_metric(names, main):
    found: Table = table({side: {name: passes(3, 12) for name in names} for side in ("a", "b")})
    assert main_metric(found) == main


def test_a_metric_that_not_all_sides_have_is_not_the_main_one():
    assert main_metric(table({"a": {"json": [1.0], "rouge_l": [1.0]}, "b": {"rouge_l": [1.0]}})) == "rouge_l"


def test_wrong_answers_are_refused_together():
    assert CHANGES == ("never", "monthly", "weekly")
    with pytest.raises(InputError, match=r"volume.*changes"):
        Questions(volume=-1, changes="daily")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tuned"):
        choose(table({"tuned": {"json": [1.0]}}), "json", {}, {}, Questions())
