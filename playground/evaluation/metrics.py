"""Every metric of a verdict, as a class of the ``evaluate`` library: a value an example, and the figure of the whole
set.

``compute`` gives the figure by name as any metric does, so ``evaluate.combine`` mixes these with each other and with
the hub's; with ``per_example=True`` it also gives ``values`` and ``tally``, from which a verdict draws its intervals.
``evaluate.load`` runs a script from the hub, so nothing here uses it. Importing ``evaluate`` imports torch: import this
module where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import evaluate
import numpy as np

from playground.evaluation import text_metrics
from playground.evaluation.checks import WORST, Check, parse_check
from playground.evaluation.forgetting import is_refusal
from playground.evaluation.statistics import Kind, Measured, Tally, mean

if TYPE_CHECKING:
    from playground.evaluation.verdict import Answered

TEXT, NUMBER = datasets.Value("string"), datasets.Value("float64")
TEXTS = datasets.Sequence(TEXT)
Values = Sequence[float | None]
_INPUTS = """
Args:
    predictions: {predictions}
    references: {references}
Returns:
    {{name: value}}
"""


class Metric(evaluate.Metric):
    """key: its name in a result. words: what it measures and its unit. paper: its source. higher: whether more is
    better.

    kind: how it is pooled, as in ``Measured``. takes: input -> (type, words). It holds what is added in memory and
    writes nothing."""

    key: str = ""
    words: str = ""
    paper: ClassVar[str] = ""
    kind: Kind = "mean"
    higher: bool = True
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "predictions": (TEXT, "the replies, a list of strings."),
        "references": (TEXT, "what was wanted, a list of strings of the same length."),
    }

    def __init__(self, **options: Any) -> None:
        with TemporaryDirectory() as folder:  # evaluate makes a cache folder although the inputs are kept in memory
            super().__init__(**{"keep_in_memory": True, "cache_dir": folder, **options})

    def _info(self) -> evaluate.MetricInfo:
        words = {"references": "not taken", **{name: words for name, (_, words) in self.takes.items()}}
        return evaluate.MetricInfo(
            description=self.words,
            citation=self.paper,
            inputs_description=_INPUTS.format(**words),
            features=datasets.Features({name: kind for name, (kind, _) in self.takes.items()}),
        )

    def _compute(self, *, per_example: bool = False, **inputs: Any) -> dict[str, Any]:
        values, tally = self.score(*(list(inputs[name]) for name in self.takes))
        known = [value for value in values if value is not None]
        figure = tally.figure() if tally is not None else float(np.mean(known)) if known else float("nan")
        return {self.key: figure} | ({"values": values, "tally": tally} if per_example else {})

    def score(self, *inputs: Any) -> tuple[Values, Tally | None]:
        """A value an example, None where it says nothing of one; the tally of a figure that is not their mean."""
        return [self.value(*row) for row in zip(*inputs, strict=True)], None

    def value(self, *row: Any) -> float | None:
        """One example's value, where it does not depend on the others."""
        raise NotImplementedError

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        """What of an answered example goes in, in the order of ``takes``; None = it does not apply."""
        return row.reply, row.reference

    def measure(self, rows: Sequence[Answered]) -> Measured | None:
        """This metric of those rows of one side that it applies to; None where it says nothing of any."""
        given = [(row.example, _utf8(inputs)) for row in rows if (inputs := self.inputs(row)) is not None]
        if not given:
            return None
        columns = zip(*(inputs for _, inputs in given), strict=True)
        found = self.compute(
            per_example=True, **{name: list(column) for name, column in zip(self.takes, columns, strict=True)}
        )
        if all(value is None for value in found["values"]) and found["tally"] is None:
            return None
        numbers = tuple(example for example, _ in given)
        values = tuple(found["values"])
        return Measured(self.key, values, found[self.key], self.kind, self.higher, self.words, numbers, found["tally"])


def _utf8(value: Any) -> Any:
    """Half surrogate pairs, which a model's or a person's text may hold and Arrow does not take, as question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_utf8(one) for one in value] if isinstance(value, list | tuple) else value


class ExactMatch(Metric):
    key, kind, words = "exact_match", "yes-no", "Share of replies that are the reference, white space aside"
    value = staticmethod(text_metrics.exact_match)


class TokenF1(Metric):
    key, words = "token_f1", "Words shared with the reference, 0 to 1 (F1, as in SQuAD)"
    paper = "Rajpurkar et al. 2016, arXiv:1606.05250"
    value = staticmethod(text_metrics.token_f1)


class RougeL(Metric):
    key, words = "rouge_l", "Longest common run of words with the reference, gaps allowed, 0 to 1 (ROUGE-L)"
    paper = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"
    value = staticmethod(text_metrics.rouge_l)


class Bleu(Metric):
    key, kind, words = "bleu", "corpus", "Runs of up to four words shared with the references, 0 to 100 (BLEU)"
    paper = "Papineni et al. 2002; Post 2018, arXiv:1804.08771"
    score = staticmethod(text_metrics.bleu)


class Chrf(Metric):
    key, kind, words = "chrf", "corpus", "Runs of up to six letters shared with the references, 0 to 100 (chrF)"
    paper = "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation"
    score = staticmethod(text_metrics.chrf)


class _Labelled(Metric):
    """labels: what the answers may be; None = found among the references, or where these do not look like labels, all
    of them."""

    def __init__(self, labels: Sequence[str] | None = None, **options: Any) -> None:
        self._labels = list(labels) if labels is not None else None
        super().__init__(**options)

    def names(self, references: list[str]) -> list[str]:
        return self._labels or text_metrics.labels_of(references) or sorted(set(references))


class LabelAccuracy(_Labelled):
    key, kind, words = "accuracy", "yes-no", "Share of replies that give the right label"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, Tally | None]:
        return text_metrics.accuracy(replies, references, self.names(references)), None


class MacroF1(_Labelled):
    key, kind, words = "macro_f1", "corpus", "F1 of each label, averaged, 0 to 1"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, Tally | None]:
        return [None] * len(replies), text_metrics.macro_f1(replies, references, self.names(references))


class FormatAdherence(Metric):
    """Share of replies that pass a check, such as ``ends-with:Reviewed by Dr. Sharma``, named as it; references are not
    looked at."""

    kind = "yes-no"

    def __init__(self, check: Check | str, **options: Any) -> None:
        self.check = parse_check(check) if isinstance(check, str) else check
        self.key, self.words = self.check.spec, self.check.label
        super().__init__(**options)

    def value(self, reply: str, reference: str) -> float:
        return float(self.check.passes(reply))


class WorstOfRepeats(FormatAdherence):
    """Share of requests of which every sampled repeat passes a check."""

    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "predictions": (TEXTS, "for each request the repeats of its reply, a list of lists of strings.")
    }

    def __init__(self, check: Check | str, **options: Any) -> None:
        super().__init__(check, **options)
        self.key, self.words = WORST + self.check.spec, f"{self.check.label}, in every repeat"

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return (list(row.repeats),)

    def value(self, repeats: Sequence[str]) -> float | None:  # type: ignore[override]
        return text_metrics.worst(self.check, repeats)


class Consistency(_Labelled):
    key, words = "consistency", "Share of pairs of repeats that agree"
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = WorstOfRepeats.takes

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return (list(row.repeats),)

    def value(self, repeats: Sequence[str]) -> float | None:
        return text_metrics.consistency(repeats, self._labels)


class Groundedness(Metric):
    key, words = "groundedness", "Share of a reply's numbers, names and content words that stand in its passages"
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "predictions": (TEXT, "the replies, a list of strings."),
        "references": (TEXTS, "for each reply its passages, a list of lists of strings."),
    }

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return row.reply, list(row.passages)

    def value(self, reply: str, passages: Sequence[str]) -> float | None:
        return text_metrics.groundedness(reply, passages) if passages else None


class Refused(Metric):
    key, kind, words = "refused", "yes-no", "Share of replies that say that the answer is not known"
    paper = "Rajpurkar et al. 2018, arXiv:1806.03822"
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {"predictions": (TEXT, "the replies, a list of strings.")}

    def value(self, reply: str) -> float:
        return float(is_refusal(reply))


class Average(Metric):
    """The mean of a number of each reply, such as its seconds; less is better. of: the number, None = not known."""

    higher = False
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {"predictions": (NUMBER, "the numbers, a list.")}

    def __init__(self, key: str, words: str, of: Callable[[Answered], float | None], **options: Any) -> None:
        self.key, self.words, self._of = key, words, of
        super().__init__(**options)

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return None if (value := self._of(row)) is None else (float(value),)

    def value(self, number: float) -> float:
        return number


class Perplexity(Average):
    """``evaluate`` has one that runs a model; this one takes the losses that the engine scored."""

    kind = "corpus"

    def __init__(self, **options: Any) -> None:
        words = "Perplexity of the reference: e to the mean of the rows' losses"
        super().__init__("perplexity", words, lambda row: row.loss, **options)

    def score(self, losses: Sequence[float]) -> tuple[Values, Tally | None]:
        rows = np.column_stack([losses, np.ones(len(losses))])
        return [float(value) for value in np.exp(losses)], Tally(rows, lambda sums: np.exp(mean(sums)))


def metrics_for(
    rows: Sequence[Answered], checks: Sequence[Check] = (), labels: Sequence[str] | None = None
) -> dict[str, Measured]:
    """Everything that can be said of one side's answers, in a fixed order: checks first, as they were written.

    rows: of one side, one an example, in any order; the values come in the order of the example numbers. labels: what
    ``labels_of`` found, None where the answers are no labels. A metric that says nothing of any row is left out.
    Raises ValueError for no rows, rows of several sides, or an example twice.
    """
    rows = sorted(rows, key=lambda row: row.example)
    if not rows or len({row.side for row in rows}) > 1 or len({row.example for row in rows}) < len(rows):
        raise ValueError("metrics_for takes the rows of one side, at least one, each example once.")
    found = (metric.measure(rows) for metric in _metrics(checks, labels))
    return {one.name: one for one in found if one is not None}


def _metrics(checks: Sequence[Check], labels: Sequence[str] | None) -> Iterator[Metric]:
    yield from map(FormatAdherence, checks)
    yield from map(WorstOfRepeats, checks)
    if labels:
        yield from (LabelAccuracy(labels), MacroF1(labels))
    yield from (ExactMatch(), TokenF1(), RougeL(), Bleu(), Chrf(), Consistency(labels), Groundedness())
    yield Average("loss", "Loss of the reference, nats a token", lambda row: row.loss)
    yield Perplexity()
    yield Average("seconds", "Seconds a reply", lambda row: row.seconds)
    yield Average("prompt_tokens", "Tokens read a request", lambda row: row.prompt_tokens)
    yield Average("completion_tokens", "Tokens written a reply", lambda row: row.completion_tokens)
