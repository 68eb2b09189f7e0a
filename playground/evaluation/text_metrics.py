"""Replies against references (exact match, token F1, ROUGE-L, BLEU, chrF, labels), passages and repeats.

Figures of a whole set come from counts that add up over examples, so that a bootstrap sample is one matrix product.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from string import punctuation
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from playground.evaluation.checks import Check
from playground.evaluation.statistics import Tally

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: each sign counts as a word."""
_TEXT_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_SIGN = re.compile(f"([{_ALONE}])")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def collapsed(text: str) -> str:
    """Stripped, with every run of white space as one space. Case stays."""
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, in order. On plain English this is what ROUGE's own tokenizer gives;
    letters of other languages count too."""
    return _TEXT_WORD.findall(text.lower())


def squad_words(text: str) -> list[str]:
    """As SQuAD's evaluation takes an answer apart: lower case, no punctuation, no articles, split at white space."""
    bare = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return _SIGN.sub(r" \1 ", _ARTICLE.sub(" ", bare)).split()


@lru_cache(maxsize=4096)
def _is_punctuation(letter: str) -> bool:
    return letter in punctuation or unicodedata.category(letter).startswith("P")


def exact_match(reply: str, reference: str) -> float:
    """1 where the two are the same but for white space at the ends and its amount between words. Case and punctuation
    count."""
    return float(collapsed(reply) == collapsed(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, as in SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250):
    without case, punctuation and articles, each word as often as it occurs. Both without a word = 1."""
    said, wanted = squad_words(reply), squad_words(reference)
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def rouge_l(reply: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), by rouge-score, without stemming."""
    return float(_scorer().score(reference, reply)["rougeL"].fmeasure)


class _Words:
    """rouge-score's own tokenizer drops every letter outside a to z, so that it gives 0 for other scripts."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds, which whoever only wants a check does not pay

    return RougeScorer(["rougeL"], tokenizer=_Words())


ORDER = 4


class _Counting(CHRF):
    """sacrebleu keeps chrF's counts to itself."""

    def counts(self, reply: str, reference: str) -> list[int]:
        return [int(count) for count in self._extract_corpus_statistics([reply], [[reference]])[0]]


def bleu(replies: Sequence[str], references: Sequence[str]) -> tuple[list[float], Tally]:
    """Sentence BLEU of each reply (effective order), and the tally of corpus BLEU (Papineni et al. 2002; sacrebleu's
    defaults)."""
    scorer = BLEU(effective_order=True)
    scores = [scorer.sentence_score(reply, [reference]) for reply, reference in zip(replies, references, strict=True)]
    rows = np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores], dtype=float)
    return [score.score for score in scores], Tally(rows, bleu_of)


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """[..., (reply words, reference words, 4 matches, 4 totals)] -> corpus BLEU. An order without a match counts half
    of the one before it (sacrebleu's ``exp``); no match at all, or replies shorter than four words throughout, is 0."""
    said, wanted = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    missed = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    safe = np.maximum(totals, 1)
    precision = np.where(matches > 0, matches, 0.5**missed) / safe
    product = np.exp(np.log(precision).mean(axis=-1))
    brevity = np.where(said < wanted, np.exp(1 - wanted / np.maximum(said, 1e-9)), 1.0)
    known = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    return np.where(known, 100 * brevity * product, 0.0)


def chrf(replies: Sequence[str], references: Sequence[str]) -> tuple[list[float], Tally]:
    """Sentence chrF of each reply, and the tally of corpus chrF2 (Popović 2015; sacrebleu's defaults)."""
    counting = _Counting()
    rows = np.array([counting.counts(*pair) for pair in zip(replies, references, strict=True)], dtype=float)
    return [float(score) for score in chrf_of(rows)], Tally(rows, chrf_of)


def chrf_of(sums: np.ndarray) -> np.ndarray:
    """[..., 6 times (reply, reference, matching n-grams)] -> chrF2: mean precision and mean recall over the orders that
    both have."""
    said, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (said > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matches / np.maximum(said, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, matches / np.maximum(wanted, 1), 0).sum(axis=-1) / orders
    weight = CHRF.BETA**2
    return 100 * (1 + weight) * precision * recall / np.maximum(weight * precision + recall, 1e-300)


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


def groundedness(reply: str, passages: Sequence[str]) -> float | None:
    """The share of a reply's different numbers, names and content words that stand in its passages, 0 to 1; None where
    it has none.

    A number is read as it is written (12.5, 110/70). A name is a word with a capital that does not begin a sentence. A
    content word has at least four letters and is not one of a short list of English function words. Case and a plural's
    s make no difference. It tells that words were taken from the passages, not that what is said with them is true."""
    items = _items(reply)
    if not items:
        return None
    text = " ".join(passages)
    there = set(_NUMBER.findall(text)) | {_bare(word) for word in _WORD.findall(text)}
    return len(items & there) / len(items)


def _items(reply: str) -> set[str]:
    found = set(_NUMBER.findall(reply))
    for match in _WORD.finditer(reply):
        word = match.group()
        before = reply[: match.start()].rstrip(" \t\"'(“")
        begins = not before or before[-1] in ".!?:\n"
        if (word[0].isupper() and not begins) or (len(word) >= SHORTEST and word.casefold() not in _COMMON):
            found.add(_bare(word))
    return found


def _bare(word: str) -> str:
    plain = re.split("['’]", word.casefold())[0]
    return plain[:-1] if len(plain) > SHORTEST and plain.endswith("s") and not plain.endswith("ss") else plain


FEWEST_ROWS, MOST_LABELS, MOST_WORDS, MOST_CHARACTERS = 6, 200, 8, 60
_OUTER = " \t\n\"'`*.,:;!?()[]{}<>“”‘’„«»"


def key_of(text: str) -> str:
    """What two spellings of one label share: no case, no outer punctuation, one space for ``_``, ``-`` and white
    space."""
    return collapsed(re.sub(r"[_\-\s]+", " ", text).strip(_OUTER)).casefold()


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The labels, sorted, where the references are labels; else None.

    1. There are at least 6 references. 2. Each is one line of at most 8 words and 60 characters, and holds a letter or
    digit. 3. There are 2 to 200 different ones, and at most half as many as references. Case, outer punctuation, and
    whether words are joined by a space, ``_`` or ``-`` make no difference; the commonest spelling stands for all."""
    texts = [text.strip() for text in references]
    if len(texts) < FEWEST_ROWS:  # 1
        return None
    for text in texts:  # 2
        if "\n" in text or len(text) > MOST_CHARACTERS or len(key_of(text).split()) > MOST_WORDS or not key_of(text):
            return None
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        spelled[key_of(text)][collapsed(text)] += 1
    if not 2 <= len(spelled) <= min(MOST_LABELS, len(texts) // 2):  # 3
        return None
    return sorted(spellings.most_common(1)[0][0] for spellings in spelled.values())


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply gives, or None.

    Case, outer punctuation and ``_`` or ``-`` for a space make no difference. 1. The reply is a label. 2. Its first
    line is one, or becomes one without a heading such as ``Category:``. 3. One label stands in the reply as whole words
    and no other does; a label that only occurs inside a longer one does not count. Several, or none: None."""
    known = {key_of(label): label for label in reversed(labels)}
    if (whole := key_of(reply)) in known:  # 1
        return known[whole]
    first = next(iter(reply.strip().splitlines()), "")
    for line in (first, first.partition(":")[2]):  # 2
        if key_of(line) in known:
            return known[key_of(line)]
    found: list[str] = []  # 3
    rest = whole
    for key in sorted(known, key=len, reverse=True):
        rest, times = re.subn(rf"(?<!\w){re.escape(key)}(?!\w)", " | ", rest)
        found += [known[key]] * bool(times)
    return found[0] if len(found) == 1 else None


def accuracy(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[float]:
    """1 where the reply gives the reference's label. A reply without a label, or with several, is wrong."""
    return [float(given is not None and given == right) for given, right in _given(replies, references, labels)]


def macro_f1(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Tally:
    """The tally of macro F1: the mean, over the labels that the references hold, of each label's F1. Where examples are
    drawn again, it is the mean over the labels that were drawn. References outside ``labels`` count as one more label,
    which no reply can give."""
    given = _given(replies, references, labels)
    place = {label: at for at, label in enumerate(labels)}
    rows = np.zeros((len(given), 3, len(labels) + 1))  # right, given, wanted
    for row, (said, right) in enumerate(given):
        rows[row, 2, place.get(right, -1)] = 1
        if said is not None:
            rows[row, 1, place[said]] = 1
            rows[row, 0, place[said]] = said == right
    return Tally(rows.reshape(len(given), -1), macro_f1_of)


def macro_f1_of(sums: np.ndarray) -> np.ndarray:
    """[..., (right, given, wanted) x labels] -> macro F1."""
    right, given, wanted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = 2 * right / np.maximum(given + wanted, 1)
    there = wanted > 0
    return np.where(there, f1, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


def _given(replies: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[tuple[str | None, str]]:
    """For each example the label that was given and the one that is right. A reference outside the labels is a label of
    its own."""
    return [
        (label_in(reply, labels), label_in(reference, labels) or collapsed(reference))
        for reply, reference in zip(replies, references, strict=True)
    ]


def consistency(repeats: Sequence[str], labels: Sequence[str] | None = None) -> float | None:
    """The share of pairs of repeats that agree, 0 to 1; None below two repeats. Two agree where they are the same but
    for white space, or, where there are labels, give the same label."""
    if len(repeats) < 2:
        return None
    said = Counter((labels and label_in(repeat, labels)) or collapsed(repeat) for repeat in repeats)
    agreeing = sum(times * (times - 1) for times in said.values())
    return agreeing / (len(repeats) * (len(repeats) - 1))


def worst(check: Check, repeats: Sequence[str]) -> float | None:
    """1 where the check holds for every repeat, 0 where it fails once; None without repeats."""
    return float(all(check.passes(repeat) for repeat in repeats)) if repeats else None
