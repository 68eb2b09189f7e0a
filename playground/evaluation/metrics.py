"""Every metric of a verdict, as a class of the ``evaluate`` library: a value an example, and the figure of the whole
set.

``compute`` gives the figure by name as any metric does, so ``evaluate.combine`` mixes these with each other and with
the hub's; with ``per_example=True`` it also gives ``values`` and ``tally``, from which a verdict draws its intervals.
``evaluate.load`` runs a script from the hub, so nothing here uses it. Importing ``evaluate`` imports torch: import this
module where it is needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from playground.evaluation.checks import WORST, Check, parse_check
from playground.evaluation.criterion import FIELD, Criterion
from playground.evaluation.form import ALONE, LIKE_REFERENCES, collapsed, label_in, labels_of
from playground.evaluation.statistics import Kind, Measured, Tally, mean
from playground.evaluation.values import is_blank, token_f1

if TYPE_CHECKING:
    from playground.evaluation.verdict import Answered

Values = Sequence[float | None]
TEXT, NUMBER = datasets.Value("string"), datasets.Value("float64")
TEXTS = datasets.Sequence(TEXT)
REPLIES = {"predictions": (TEXT, "the replies, a list of strings.")}
_INPUTS = """
Args:
    predictions: {predictions}
    references: {references}
Returns:
    {{name: value}}
"""
_TEXT_WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")
ORDER = 4
"""The longest run of words that BLEU counts."""


class Metric(evaluate.Metric):  # type: ignore[misc, unused-ignore]
    """key: its name in a result. words: what it measures and its unit. paper: its source. higher: whether more is
    better. kind: how it is pooled, as in ``Measured``. takes: input -> (type, words).

    It holds what is added in memory and writes nothing."""

    key: str = ""
    words: str = ""
    paper: ClassVar[str] = ""
    kind: Kind = "mean"
    higher: bool = True
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        **REPLIES,
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
        numbers, inputs_of = zip(*given, strict=True)
        columns = {name: list(one) for name, one in zip(self.takes, zip(*inputs_of, strict=True), strict=True)}
        found = self.compute(per_example=True, **columns)
        values, tally = tuple(found["values"]), found["tally"]
        if all(value is None for value in values) and tally is None:
            return None
        return Measured(self.key, values, found[self.key], self.kind, self.higher, self.words, numbers, tally)


def _utf8(value: Any) -> Any:
    """Half surrogate pairs, which a model's or a person's text may hold and Arrow does not take, as question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_utf8(one) for one in value] if isinstance(value, list | tuple) else value


class ExactMatch(Metric):
    """Case and punctuation count."""

    key, kind, words = "exact_match", "yes-no", "Share of replies that are the reference, white space aside"

    def value(self, reply: str, reference: str) -> float:
        return float(collapsed(reply) == collapsed(reference))


class TokenF1(Metric):
    """Harmonic mean of precision and recall of the words: without case, punctuation and articles, each as often as it
    occurs. Both without a word = 1."""

    key, words = "token_f1", "Words shared with the reference, 0 to 1 (F1, as in SQuAD)"
    paper = "Rajpurkar et al. 2016, arXiv:1606.05250"

    def value(self, reply: str, reference: str) -> float:
        return token_f1(reply, reference)


class RougeL(Metric):
    """By rouge-score, without stemming."""

    key, words = "rouge_l", "Longest common run of words with the reference, gaps allowed, 0 to 1 (ROUGE-L)"
    paper = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def value(self, reply: str, reference: str) -> float:
        return float(ROUGE.score(reference, reply)["rougeL"].fmeasure)


class _Words:
    """rouge-score's own tokenizer drops every letter outside a to z. On plain English this gives the same."""

    def tokenize(self, text: str) -> list[str]:
        return _TEXT_WORD.findall(text.lower())


ROUGE = RougeScorer(["rougeL"], tokenizer=_Words())


class Bleu(Metric):
    """Sentence BLEU of each reply (effective order), corpus BLEU of all; sacrebleu's defaults."""

    key, kind, words = "bleu", "corpus", "Runs of up to four words shared with the references, 0 to 100 (BLEU)"
    paper = "Papineni et al. 2002; Post 2018, arXiv:1804.08771"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, Tally]:
        scorer = BLEU(effective_order=True)
        found = [scorer.sentence_score(said, [wanted]) for said, wanted in zip(replies, references, strict=True)]
        rows = np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in found], dtype=float)
        return [one.score for one in found], Tally(rows, _bleu_of)


def _bleu_of(sums: np.ndarray) -> np.ndarray:
    """[..., (reply words, reference words, 4 matches, 4 totals)] -> corpus BLEU. An order without a match counts half
    of the one before it (sacrebleu's ``exp``); no match at all, or replies shorter than four words throughout, is 0."""
    said, wanted = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    missed = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    precision = np.where(matches > 0, matches, 0.5**missed) / np.maximum(totals, 1)
    product = np.exp(np.log(precision).mean(axis=-1))
    brevity = np.where(said < wanted, np.exp(1 - wanted / np.maximum(said, 1e-9)), 1.0)
    known = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    return np.where(known, 100 * brevity * product, 0.0)


class Chrf(Metric):
    """Sentence chrF of each reply, corpus chrF2 of all; sacrebleu's defaults."""

    key, kind, words = "chrf", "corpus", "Runs of up to six letters shared with the references, 0 to 100 (chrF)"
    paper = "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, Tally]:
        counting = _Counting()
        rows = np.array([counting.counts(*pair) for pair in zip(replies, references, strict=True)], dtype=float)
        return _chrf_of(rows).tolist(), Tally(rows, _chrf_of)


class _Counting(CHRF):
    """sacrebleu keeps chrF's counts to itself."""

    def counts(self, reply: str, reference: str) -> list[int]:
        return [int(count) for count in self._extract_corpus_statistics([reply], [[reference]])[0]]


def _chrf_of(sums: np.ndarray) -> np.ndarray:
    """[..., 6 times (reply, reference, matching n-grams)] -> chrF2: mean precision and mean recall over the orders that
    both have."""
    said, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (said > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matches / np.maximum(said, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, matches / np.maximum(wanted, 1), 0).sum(axis=-1) / orders
    weight = CHRF.BETA**2
    return np.asarray(100 * (1 + weight) * precision * recall / np.maximum(weight * precision + recall, 1e-300))


class _Labelled(Metric):
    """labels: what the answers may be; None = found among the references, or where these do not look like labels, all
    of them."""

    def __init__(self, labels: Sequence[str] | None = None, **options: Any) -> None:
        self._labels = list(labels) if labels is not None else None
        super().__init__(**options)

    def given(self, replies: list[str], references: list[str]) -> tuple[list[str], list[tuple[str | None, str]]]:
        """The labels; for each example the one that was given and the right one. A reference outside the labels is a
        label of its own."""
        labels = self._labels or labels_of(references) or sorted(set(references))
        pairs = zip(replies, references, strict=True)
        return labels, [(label_in(said, labels), label_in(right, labels) or collapsed(right)) for said, right in pairs]


class LabelAccuracy(_Labelled):
    """A reply without a label, or with several, is wrong."""

    key, kind, words = "accuracy", "yes-no", "Share of replies that give the right label"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, None]:
        return [float(said == right) for said, right in self.given(replies, references)[1]], None


class MacroF1(_Labelled):
    """Over the labels that the references hold; where examples are drawn again, over those that were drawn. References
    outside the labels count as one more, which no reply can give."""

    key, kind, words = "macro_f1", "corpus", "F1 of each label, averaged, 0 to 1"

    def score(self, replies: list[str], references: list[str]) -> tuple[Values, Tally]:
        labels, given = self.given(replies, references)
        rows = np.zeros((len(given), 3, len(labels) + 1))  # right, given, wanted
        for row, (said, right) in enumerate(given):
            rows[row, 2, labels.index(right) if right in labels else -1] = 1
            if said is not None:
                rows[row, 1, labels.index(said)] = 1
                rows[row, 0, labels.index(said)] = said == right
        return [None] * len(given), Tally(rows.reshape(len(given), -1), _macro_f1_of)


def _macro_f1_of(sums: np.ndarray) -> np.ndarray:
    """[..., (right, given, wanted) x labels] -> macro F1."""
    right, given, wanted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    there = wanted > 0
    f1 = np.where(there, 2 * right / np.maximum(given + wanted, 1), 0)
    return np.asarray(f1.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1))


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


class Format(Metric):
    """Share of replies that pass every check that the person lists; an empty reply never does."""

    key, kind, words = "format", "yes-no", "Share of replies in the form asked for: every check holds"

    def __init__(self, checks: Sequence[Check] = (), **options: Any) -> None:
        self._checks = tuple(checks)
        super().__init__(**options)

    def value(self, reply: str, reference: str) -> float:
        return float(not is_blank(reply, reference) and all(check.passes(reply) for check in self._checks))


class _Asked(Metric):
    """Of a reply that is looked at with its question, which a judge's marks depend on."""

    kind = "yes-no"
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {**Metric.takes, "questions": (TEXT, "what was asked.")}

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return row.reply, row.reference, row.question


class Content(_Asked):
    """Share of replies whose content is right by a criterion; ``field``: of one field of it."""

    def __init__(self, criterion: Criterion, field: str = "", **options: Any) -> None:
        self._criterion, self._field = criterion, field
        self.key = f"{FIELD}{field}" if field else "content"
        self.words = (
            f"Share of replies whose {field} is right"
            if field
            else f"Share of replies that are right: {criterion.label}"
        )
        super().__init__(**options)

    def value(self, reply: str, reference: str, question: str) -> float | None:
        mark = self._criterion.mark(reply, reference, question)
        if not self._field:
            return float(mark.right)
        return float(mark.fields[self._field]) if self._field in mark.fields else None


class Pass(_Asked):
    """Share of replies with the form and the content asked for: what a verdict decides by."""

    key, words = "pass", "Share of replies that pass: form and content are right"

    def __init__(self, form: Format, content: Content | None, **options: Any) -> None:
        self._form, self._content = form, content
        if content is None:
            self.words = "Share of replies that pass: the form alone is looked at"
        super().__init__(**options)

    def value(self, reply: str, reference: str, question: str) -> float:
        content = 1.0 if self._content is None else self._content.value(reply, reference, question)
        return float(bool(self._form.value(reply, reference)) and content == 1.0)


class _OfRepeats(Metric):
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "predictions": (TEXTS, "for each request the repeats of its reply, a list of lists of strings.")
    }

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return (list(row.repeats),)


class WorstOfRepeats(_OfRepeats, FormatAdherence):
    """Share of requests of which every sampled repeat passes a check."""

    def __init__(self, check: Check | str, **options: Any) -> None:
        super().__init__(check, **options)
        self.key, self.words = WORST + self.check.spec, f"{self.check.label}, in every repeat"

    def value(self, repeats: Sequence[str]) -> float | None:  # type: ignore[override]
        return float(all(map(self.check.passes, repeats))) if repeats else None


class Consistency(_OfRepeats, _Labelled):
    """Two repeats agree where they are the same but for white space, or, where there are labels, give the same one."""

    key, words = "consistency", "Share of pairs of repeats that agree"

    def value(self, repeats: Sequence[str]) -> float | None:
        if len(repeats) < 2:
            return None
        said = Counter((self._labels and label_in(repeat, self._labels)) or collapsed(repeat) for repeat in repeats)
        return sum(times * (times - 1) for times in said.values()) / (len(repeats) * (len(repeats) - 1))


_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
SHORTEST = 4
"""A word with fewer letters counts only where it is written with a capital inside a sentence, as a name is."""
_COMMON_WORDS = """
    about above after again against also although always another because been before being below between both cannot
    could does doing down during each every from further have having here hers herself himself into itself just like
    many more most much must only other ours ourselves over please same shall should since some such than that their
    theirs them themselves then there therefore these they this those through thus under until upon very well were
    what when where whether which while whom whose will with within without would your yours yourself
"""
_COMMON = frozenset(_COMMON_WORDS.split())


class Groundedness(Metric):
    """Numbers as they are written (12.5, 110/70), names (a capital that does not begin a sentence) and words of at
    least four letters that are no common English ones; case and a plural's s make no difference. It tells that words
    were taken from the passages, not that what is said with them is true."""

    key, words = "groundedness", "Share of a reply's numbers, names and content words that stand in its passages"
    takes: ClassVar[Mapping[str, tuple[Any, str]]] = {
        **REPLIES,
        "references": (TEXTS, "for each reply its passages, a list of lists of strings."),
    }

    def inputs(self, row: Answered) -> tuple[Any, ...] | None:
        return row.reply, list(row.passages)

    def value(self, reply: str, passages: Sequence[str]) -> float | None:
        items = set(_NUMBER.findall(reply))
        for match in _WORD.finditer(reply):
            word, before = match.group(), reply[: match.start()].rstrip(" \t\"'(“")
            is_name = word[0].isupper() and before and before[-1] not in ".!?:\n"
            if is_name or (len(word) >= SHORTEST and word.casefold() not in _COMMON):
                items.add(_bare(word))
        text = " ".join(passages)
        there = {*_NUMBER.findall(text), *map(_bare, _WORD.findall(text))}
        return len(items & there) / len(items) if items and passages else None


def _bare(word: str) -> str:
    plain = re.split("['’]", word.casefold())[0]
    return plain[:-1] if len(plain) > SHORTEST and plain.endswith("s") and not plain.endswith("ss") else plain


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


class CutOff(Average):
    kind = "yes-no"

    def __init__(self, **options: Any) -> None:
        words = "Share of replies that the token limit ended"
        super().__init__("cut_off", words, lambda row: row.finish == "length" if row.finish else None, **options)


class Perplexity(Average):
    """``evaluate`` has one that runs a model; this one takes the losses that the engine scored."""

    kind = "corpus"

    def __init__(self, **options: Any) -> None:
        words = "Perplexity of the reference: e to the mean of the rows' losses"
        super().__init__("perplexity", words, lambda row: row.loss, **options)

    def score(self, losses: Sequence[float]) -> tuple[Values, Tally]:
        rows = np.column_stack([losses, np.ones(len(losses))])
        return np.exp(losses).tolist(), Tally(rows, lambda sums: np.exp(mean(sums)))


def metrics_for(
    rows: Sequence[Answered],
    checks: Sequence[Check] = (),
    labels: Sequence[str] | None = None,
    criterion: Criterion | None = None,
) -> dict[str, Measured]:
    """Everything that can be said of one side's answers, in a fixed order: checks first, as they were written.

    rows: of one side, one an example, in any order; the values come in the order of the example numbers. labels: what
    ``labels_of`` found, None where the answers are no labels. A metric that says nothing of any row is left out.
    Raises ValueError for no rows, rows of several sides, or an example twice."""
    rows = sorted(rows, key=lambda row: row.example)
    if not rows or len({row.side for row in rows}) > 1 or len({row.example for row in rows}) < len(rows):
        raise ValueError("metrics_for takes the rows of one side, at least one, each example once.")
    found = (metric.measure(rows) for metric in _metrics(checks, labels, criterion))
    return {one.name: one for one in found if one is not None}


def _metrics(checks: Sequence[Check], labels: Sequence[str] | None, criterion: Criterion | None) -> Iterator[Metric]:
    form = Format([check for check in checks if check.spec != LIKE_REFERENCES])
    content = Content(criterion) if criterion is not None else None
    yield Pass(form, content)
    yield form
    if content is not None and criterion is not None:
        yield content
        yield from (Content(criterion, name) for name in criterion.names)
    yield from map(FormatAdherence, checks)
    yield from map(WorstOfRepeats, checks)
    if labels:
        yield from (LabelAccuracy(labels), MacroF1(labels))
    yield from (ExactMatch(), TokenF1(), RougeL(), Bleu(), Chrf(), Consistency(labels), Groundedness())
    yield Average("loss", "Loss of the reference, nats a token", lambda row: row.loss)
    yield Perplexity()
    yield CutOff()
    yield Average("seconds", "Seconds a reply", lambda row: row.seconds)
    yield Average("prompt_tokens", "Tokens read a request", lambda row: row.prompt_tokens)
    yield Average("completion_tokens", "Tokens written a reply", lambda row: row.completion_tokens)
