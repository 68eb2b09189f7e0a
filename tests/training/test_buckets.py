from __future__ import annotations

import random

from playground.training.objectives.sft import Buckets

DICE = random.Random(3)
LENGTHS = [DICE.randrange(10, 400) for _ in range(103)]


def batches(sampler: Buckets, size: int) -> list[list[int]]:
    order = list(sampler)
    return [order[at : at + size] for at in range(0, len(order), size)]


def test_every_row_once_an_epoch_and_the_same_again() -> None:
    sampler = Buckets(LENGTHS, 8, 5)
    first = list(sampler)
    assert sorted(first) == list(range(103))
    assert list(Buckets(LENGTHS, 8, 5)) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(first)
    assert list(sampler) != first
    assert list(Buckets(LENGTHS, 8, 6)) != first


def test_rows_of_a_batch_are_about_as_long_and_batches_come_in_random_order() -> None:
    found = batches(Buckets(LENGTHS, 8, 5), 8)

    def padding(batch: list[int]) -> int:
        return sum(max(LENGTHS[row] for row in batch) - LENGTHS[row] for row in batch)

    whole = found[:-1]
    plain = [list(range(at, at + 8)) for at in range(0, 96, 8)]
    assert sum(map(padding, whole)) < 0.25 * sum(map(padding, plain))
    means = [sum(LENGTHS[row] for row in batch) for batch in whole]
    assert means not in (sorted(means), sorted(means, reverse=True))
    assert len(found[-1]) == 103 % 8


def test_over_epochs_batches_are_not_the_same_rows() -> None:
    sampler = Buckets(LENGTHS, 8, 5)
    first = {tuple(sorted(batch)) for batch in batches(sampler, 8)}
    sampler.set_epoch(1)
    assert len(first & {tuple(sorted(batch)) for batch in batches(sampler, 8)}) <= 1
