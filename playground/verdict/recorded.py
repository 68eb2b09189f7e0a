"""Sides whose replies were recorded elsewhere, such as those of a model whose host closes: they are judged beside the
others, and asked nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.chat.compare import Side
from playground.data.example import Example, question_of
from playground.data.replies import Joined, join, rows_words
from playground.errors import InputError
from playground.evaluation.cost import TokenPrices
from playground.evaluation.verdict import Answered
from playground.verdict.records import file_sha256
from playground.verdict.request import VerdictRequest
from playground.workspace.examples import DataService

NOT_REPLAYABLE = "not replayable: recorded"


def joined(
    data: DataService, request: VerdictRequest, examples: Sequence[Example]
) -> Iterator[tuple[Side, Path, Joined]]:
    """Each recorded side, its file, and its replies to these examples. Raises InputError, NotFoundError."""
    for side in request.sides:
        if (file := side.replies) is None:
            continue
        same = file.resolve() == request.file.resolve()
        if same and not side.column:
            raise InputError(f"{file.name} is the file of examples: say column=NAME, which of it holds the replies.")
        said = data.replies(file, side.column, side.label, request.owner)
        yield side, file, join(said, examples, same_file=same)


def refuse_missing(
    data: DataService, request: VerdictRequest, examples: Sequence[Example], answered: Collection[tuple[int, str]]
) -> None:
    """Raises InputError where a recorded side lacks a reply to a row that it has not ``answered`` yet: it would be
    judged by other rows than the others."""
    for side, file, found in joined(data, request, examples):
        if missing := [row for row in found.missing if (row, side.label) not in answered]:
            there = f"{file.name} has replies to {len(found.replies)} of {len(examples)} rows"
            raise InputError(
                f"{side.label} cannot be judged beside the others: {there}, and none to {rows_words(missing)} of "
                f"{request.file.name}. Add them, or take these rows out."
            )


def answers(
    data: DataService, request: VerdictRequest, examples: Sequence[Example], count: Callable[[str], int]
) -> Iterator[Answered]:
    """What recorded sides say to these examples. count: tokens of a text, where the file does not count them."""
    for side, file, found in joined(data, request, examples):
        prices = asdict(TokenPrices(*side.prices)) if side.prices is not None else None
        about = {"file": file.name, "sha256": file_sha256(file), "column": side.column, "prices": prices}
        for example in examples:
            if (said := found.replies.get(example.row)) is None:
                continue
            prompt = "\n\n".join(one.content for one in example.prompt)
            tokens = said.tokens or (count(prompt), count(said.reply))
            stamp: dict[str, Any] = {"replay": NOT_REPLAYABLE, "recorded": about, "row": said.row}
            stamp |= {"several": True} if example.row in found.several else {}
            texts = (question_of(example.prompt), prompt, said.reply, example.completion)
            yield Answered(example.row, side.label, *texts, *tokens, None, stamp)
