"""The same metrics as classes of the ``evaluate`` library, so that they combine with each other and with the hub's own.

``evaluate.load`` fetches a script from the hub and runs it, so nothing here uses it; these are instances to hand to ``evaluate.combine``.
They hold what is added in memory and write nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from playground.evaluation import corpus, labels, overlap
from playground.evaluation.checks import Check, parse_check
from playground.evaluation.grounded import groundedness
from playground.evaluation.refusals import is_refusal
from playground.evaluation.repeats import consistency

_INPUTS = """
Args:
    predictions: {predictions}
    references: {references}
Returns:
    {{name: value}}
"""
TEXT = datasets.Value("string")


class OwnMetric(evaluate.Metric):
    """What all have in common. key: its name in the result. inputs: words of what it takes, by name; types: theirs."""

    key: ClassVar[str] = ""
    words: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    inputs: ClassVar[dict[str, str]] = {
        "predictions": "the replies, a list of strings.", "references": "what was wanted, a list of strings of the same length."
    }  # fmt: skip
    types: ClassVar[dict[str, Any]] = {"predictions": TEXT, "references": TEXT}

    def __init__(self, **options: Any) -> None:
        with TemporaryDirectory() as folder:  # evaluate makes a folder for files that a metric held in memory never has
            super().__init__(**{"keep_in_memory": True, "cache_dir": folder, **options})

    def _info(self) -> evaluate.MetricInfo:
        described = _INPUTS.format(**{"references": "not taken", **self.inputs})
        features = datasets.Features(dict(self.types))
        return evaluate.MetricInfo(description=self.words, citation=self.paper, inputs_description=described, features=features)


class TextMetric(OwnMetric):
    """A figure of replies against references. ``figure`` is what a subclass fills in."""

    def _compute(self, *, predictions: Sequence[str], references: Sequence[str], **_: Any) -> dict[str, float]:
        return {self.key: self.figure(list(predictions), list(references))}

    def figure(self, replies: list[str], references: list[str]) -> float:
        """The figure of the whole set."""
        raise NotImplementedError


def _mean(metric: Callable[[str, str], float], replies: list[str], references: list[str]) -> float:
    return float(np.mean([metric(reply, reference) for reply, reference in zip(replies, references, strict=True)]))


class ExactMatch(TextMetric):
    """Share of replies that are the reference, white space aside."""

    key, words = "exact_match", "Share of replies that are the reference, white space aside."

    def figure(self, replies: list[str], references: list[str]) -> float:
        return _mean(overlap.exact_match, replies, references)


class TokenF1(TextMetric):
    """Mean F1 of words, as in SQuAD."""

    key, words, paper = "token_f1", "Mean F1 of words, 0 to 1.", "Rajpurkar et al. 2016, arXiv:1606.05250"

    def figure(self, replies: list[str], references: list[str]) -> float:
        return _mean(overlap.token_f1, replies, references)


class RougeL(TextMetric):
    """Mean ROUGE-L F-measure."""

    key, words, paper = (
        "rouge_l",
        "Mean ROUGE-L F-measure, 0 to 1.",
        "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
    )

    def figure(self, replies: list[str], references: list[str]) -> float:
        return _mean(overlap.rouge_l, replies, references)


class Bleu(TextMetric):
    """Corpus BLEU."""

    key, words, paper = "bleu", "Corpus BLEU, 0 to 100.", "Papineni et al. 2002; Post 2018, arXiv:1804.08771"

    def figure(self, replies: list[str], references: list[str]) -> float:
        return corpus.bleu(replies, references)[1].figure()


class Chrf(TextMetric):
    """Corpus chrF2."""

    key, words, paper = (
        "chrf",
        "Corpus chrF2, 0 to 100.",
        "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation",
    )

    def figure(self, replies: list[str], references: list[str]) -> float:
        return corpus.chrf(replies, references)[1].figure()


class _Labelled(TextMetric):
    """labels: what the answers may be; None = they are found among the references."""

    def __init__(self, labels: Sequence[str] | None = None, **options: Any) -> None:
        self._labels = list(labels) if labels is not None else None
        super().__init__(**options)

    def names(self, references: list[str]) -> list[str]:
        """The labels. Where none were given and the references do not look like labels, every one is taken for a label."""
        return self._labels or labels.labels_of(references) or sorted(set(references))


class LabelAccuracy(_Labelled):
    """Share of replies that give the right label."""

    key, words = "accuracy", "Share of replies that give the right label."

    def figure(self, replies: list[str], references: list[str]) -> float:
        return float(np.mean(labels.accuracy(replies, references, self.names(references))))


class MacroF1(_Labelled):
    """F1 of each label, averaged."""

    key, words = "macro_f1", "F1 of each label that the references hold, averaged, 0 to 1."

    def figure(self, replies: list[str], references: list[str]) -> float:
        return labels.macro_f1(replies, references, self.names(references)).figure()


class FormatAdherence(TextMetric):
    """Share of replies that pass a check, such as ``ends-with:Reviewed by Dr. Sharma``. The references are not looked at."""

    key, words = "format_adherence", "Share of replies that pass a check."

    def __init__(self, check: Check | str, **options: Any) -> None:
        self.check = parse_check(check) if isinstance(check, str) else check
        super().__init__(**options)

    def figure(self, replies: list[str], references: list[str]) -> float:
        return float(np.mean([self.check.passes(reply) for reply in replies]))


class Consistency(OwnMetric):
    """Share of pairs of sampled repeats that agree, averaged over the requests. labels: where the answers are labels, what they may be."""

    key, words = "consistency", "Share of pairs of repeats that agree, 0 to 1."
    inputs: ClassVar[dict[str, str]] = {"predictions": "for each request the repeats of its reply, a list of lists of strings."}
    types: ClassVar[dict[str, Any]] = {"predictions": datasets.Sequence(TEXT)}

    def __init__(self, labels: Sequence[str] | None = None, **options: Any) -> None:
        self._labels = list(labels) if labels is not None else None
        super().__init__(**options)

    def _compute(self, *, predictions: Sequence[Sequence[str]], **_: Any) -> dict[str, float]:
        return {self.key: _known([consistency(repeats, self._labels) for repeats in predictions])}


class Groundedness(OwnMetric):
    """Share of a reply's numbers, names and content words that stand in its passages, averaged over the replies."""

    key, words = "groundedness", "Share of a reply's numbers, names and content words that stand in its passages, 0 to 1."
    inputs: ClassVar[dict[str, str]] = {
        "predictions": "the replies, a list of strings.", "references": "for each reply its passages, a list of lists of strings.",
    }  # fmt: skip
    types: ClassVar[dict[str, Any]] = {"predictions": TEXT, "references": datasets.Sequence(TEXT)}

    def _compute(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], **_: Any) -> dict[str, float]:
        return {self.key: _known([groundedness(reply, there) for reply, there in zip(predictions, references, strict=True)])}


class Refused(OwnMetric):
    """Share of replies to unanswerable questions that say so."""

    key, words, paper = (
        "refused",
        "Share of replies that say that the answer is not known.",
        "Rajpurkar et al. 2018, arXiv:1806.03822",
    )
    inputs: ClassVar[dict[str, str]] = {"predictions": "the replies, a list of strings."}
    types: ClassVar[dict[str, Any]] = {"predictions": TEXT}

    def _compute(self, *, predictions: Sequence[str], **_: Any) -> dict[str, float]:
        return {self.key: float(np.mean([is_refusal(reply) for reply in predictions]))}


class Perplexity(OwnMetric):
    """e to the mean of the references' losses. ``evaluate`` has one that runs a model; this one takes what the engine scored."""

    key, words = "perplexity", "e to the mean of the losses."
    inputs: ClassVar[dict[str, str]] = {"predictions": "the loss of each reference, nats a token, a list of numbers."}
    types: ClassVar[dict[str, Any]] = {"predictions": datasets.Value("float64")}

    def _compute(self, *, predictions: Sequence[float], **_: Any) -> dict[str, float]:
        return {self.key: float(np.exp(np.mean(predictions)))}


def _known(values: Sequence[float | None]) -> float:
    """The mean of those that say something; not a number where none does."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
