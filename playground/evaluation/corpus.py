"""BLEU and chrF by sacrebleu, from 0 to 100 as it reports them: a figure for the whole set, and the counts it comes from.

Both are computed from counts that add up over sentences, which is what makes thousands of bootstrap samples cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from playground.evaluation.measured import Tally

ORDER = 4


class _Counting(CHRF):
    """sacrebleu keeps chrF's counts to itself."""

    def counts(self, reply: str, reference: str) -> list[int]:
        return [int(count) for count in self._extract_corpus_statistics([reply], [[reference]])[0]]


def bleu(replies: Sequence[str], references: Sequence[str]) -> tuple[list[float], Tally]:
    """Sentence BLEU of each reply (effective order), and the tally of corpus BLEU (Papineni et al. 2002; sacrebleu's defaults)."""
    scorer = BLEU(effective_order=True)
    scores = [scorer.sentence_score(reply, [reference]) for reply, reference in zip(replies, references, strict=True)]
    rows = np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores], dtype=float)
    return [score.score for score in scores], Tally(rows, bleu_of)


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """[..., (reply words, reference words, 4 matches, 4 totals)] -> corpus BLEU. An order without a match counts half of the one
    before it (sacrebleu's ``exp``); no match at all, or replies shorter than four words throughout, is 0."""
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
    """[..., 6 times (reply, reference, matching n-grams)] -> chrF2: mean precision and mean recall over the orders that both have."""
    said, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (said > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matches / np.maximum(said, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, matches / np.maximum(wanted, 1), 0).sum(axis=-1) / orders
    weight = CHRF.BETA**2
    return 100 * (1 + weight) * precision * recall / np.maximum(weight * precision + recall, 1e-300)
