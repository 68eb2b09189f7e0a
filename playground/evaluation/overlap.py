"""How much of a reference stands in a reply: exact match, token F1, ROUGE-L. Each from 0 to 1 for one example."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from playground.evaluation.text import collapsed, squad_words, words


def exact_match(reply: str, reference: str) -> float:
    """1 where the two are the same but for white space at the ends and its amount between words. Case and punctuation count."""
    return float(collapsed(reply) == collapsed(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, as in SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): without case,
    punctuation and articles, each word as often as it occurs. Both without a word = 1."""
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
