"""Every metric of one side, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from playground.evaluation import labels, overlap
from playground.evaluation.checks import Check
from playground.evaluation.grounded import groundedness
from playground.evaluation.measured import Kind, Measured, Tally, averaged, mean
from playground.evaluation.repeats import consistency, worst
from playground.evaluation.scored import Answered

__all__ = ["PER_EXAMPLE", "WORST", "Kind", "Measured", "Tally", "metrics_for"]

WORST = "worst:"
"""Before the name of a check: it holds in every repeat."""

PER_EXAMPLE: dict[str, tuple[Callable[[str, str], float], bool, str]] = {
    "exact_match": (overlap.exact_match, True, "Share of replies that are the reference, white space aside"),
    "token_f1": (overlap.token_f1, False, "Words shared with the reference, 0 to 1 (F1, as in SQuAD)"),
    "rouge_l": (overlap.rouge_l, False, "Longest common run of words with the reference, gaps allowed, 0 to 1 (ROUGE-L)"),
}
"""name -> (function of reply and reference, whether it is yes or no, words)."""


def metrics_for(
    rows: Sequence[Answered], checks: Sequence[Check] = (), labels: Sequence[str] | None = None
) -> dict[str, Measured]:
    """Everything that can be said of one side's answers, in a fixed order: checks first, as they were written.

    rows: of one side, one an example, in any order; the values come in the order of the example numbers. labels: what
    ``labels_of`` found, None where the answers are no labels. A metric that says nothing of any row is left out. loss and perplexity
    are there when every row has a loss, ``worst:CHECK`` and consistency where there are repeats, groundedness where there are passages.
    Raises ValueError for no rows, rows of several sides, or an example twice.
    """
    rows = sorted(rows, key=lambda row: row.example)
    numbers = tuple(row.example for row in rows)
    if not rows or len({row.side for row in rows}) > 1 or len(set(numbers)) < len(rows):
        raise ValueError("metrics_for takes the rows of one side, at least one, each example once.")
    found: dict[str, Measured] = {}

    def add(name: str, values: Sequence[float | None], words: str, *, yes_no: bool = False, higher: bool = True) -> None:
        if any(value is not None for value in values):
            found[name] = averaged(name, values, words, numbers, yes_no=yes_no, higher=higher)

    for check in checks:
        add(check.spec, [float(check.passes(row.reply)) for row in rows], check.words, yes_no=True)
    for check in checks:
        words = f"{check.words}, in every repeat"
        add(WORST + check.spec, [worst(check, row.repeats) for row in rows], words, yes_no=True)
    if labels:
        found |= _labelled(rows, labels)
    for name, (metric, yes_no, words) in PER_EXAMPLE.items():
        add(name, [metric(row.reply, row.reference) for row in rows], words, yes_no=yes_no)
    found |= _corpus(rows)
    add("consistency", [consistency(row.repeats, labels) for row in rows], "Share of pairs of repeats that agree")
    words = "Share of a reply's numbers, names and content words that stand in its passages"
    add("groundedness", [groundedness(row.reply, row.passages) if row.passages else None for row in rows], words)
    found |= _losses(rows)
    add("seconds", [row.seconds for row in rows], "Seconds a reply", higher=False)
    add("prompt_tokens", [float(row.prompt_tokens) for row in rows], "Tokens read a request", higher=False)
    add("completion_tokens", [float(row.completion_tokens) for row in rows], "Tokens written a reply", higher=False)
    return found


def _labelled(rows: Sequence[Answered], names: Sequence[str]) -> dict[str, Measured]:
    replies, references, numbers = _columns(rows)
    right = labels.accuracy(replies, references, names)
    tally = labels.macro_f1(replies, references, names)
    f1 = Measured(
        "macro_f1", (None,) * len(rows), tally.figure(), "corpus", True, "F1 of each label, averaged, 0 to 1", numbers, tally
    )
    return {
        "accuracy": averaged("accuracy", right, "Share of replies that give the right label", numbers, yes_no=True),
        "macro_f1": f1,
    }


def _corpus(rows: Sequence[Answered]) -> dict[str, Measured]:
    from playground.evaluation import corpus  # sacrebleu, at the moment it is needed

    replies, references, numbers = _columns(rows)
    found = {}
    for name, score, words in (
        ("bleu", corpus.bleu, "Runs of up to four words shared with the references, 0 to 100 (BLEU)"),
        ("chrf", corpus.chrf, "Runs of up to six letters shared with the references, 0 to 100 (chrF)"),
    ):
        values, tally = score(replies, references)
        found[name] = Measured(name, tuple(values), tally.figure(), "corpus", True, words, numbers, tally)
    return found


def _losses(rows: Sequence[Answered]) -> dict[str, Measured]:
    known = [(row.example, row.loss) for row in rows if row.loss is not None]
    if not known:
        return {}
    numbers, losses = zip(*known, strict=True)
    tally = Tally(np.column_stack([losses, np.ones(len(losses))]), lambda sums: np.exp(mean(sums)))
    values = tuple(float(value) for value in np.exp(losses))
    words = "Perplexity of the reference: e to the mean of the rows' losses"
    return {
        "loss": averaged("loss", losses, "Loss of the reference, nats a token", numbers, higher=False),
        "perplexity": Measured("perplexity", values, tally.figure(), "corpus", False, words, numbers, tally),
    }


def _columns(rows: Sequence[Answered]) -> tuple[list[str], list[str], tuple[int, ...]]:
    return [row.reply for row in rows], [row.reference for row in rows], tuple(row.example for row in rows)
