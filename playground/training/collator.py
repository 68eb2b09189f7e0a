"""Rows -> one batch, and its loss.

Prompts with answers are packed without padding (``PackedSequenceCollator``) where the base's forward pass is written
out for that (``fused/llama.py``). Elsewhere prompts are padded on the left and answers on the right
(``AnswerCollator``), so that all answers begin in the same column and the language-model head need only run from there
on. Raw text comes in blocks (``TextBlockCollator``).

Packed sequences: a batch is one line of tokens, the prefix that all rows share and then the rest of each row. Every
token has the position and sees the tokens that it would in its row alone, and its gradient is the same
(``tests/training/test_packed_sequences.py``); the shared prefix is computed once. A batch of B rows with p shared
tokens of n each costs p + B (n - p) tokens instead of B n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from playground.data.render import Packed, Rendered
from playground.training.fused.llama import fits, packed_loss

WORTH = 1 / 50
"""Share of a batch's tokens that sharing a prefix must save: below that the bookkeeping costs as much."""


@dataclass(frozen=True)
class PackedSequenceCollator:
    """Builds ``input_ids`` and ``position_ids`` [1, tokens], ``spans`` [1 + rows], ``learned`` and ``labels`` [tokens
    that count].

    spans: tokens of the shared prefix (0 = none is shared), then those of each row's rest. learned: the place in the
    line that predicts each label. A row's last token predicts nothing, so it is not read.
    """

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        shared = shared_tokens(rows)
        ids, positions = rows[0].prompt_ids[:shared], list(range(shared))
        spans, learned, labels = [shared], [], []
        for row in rows:
            first = len(ids) - shared + len(row.prompt_ids) - 1  # the place of the prompt's last token
            rest = (row.prompt_ids + row.completion_ids)[shared:-1]
            ids += rest
            positions += range(shared, shared + len(rest))
            spans.append(len(rest))
            read = {place for begin, end in row.read for place in range(begin, end)}
            for place, token in enumerate(row.completion_ids):
                if place not in read:
                    learned.append(first + place)
                    labels.append(token)
        found = {"spans": spans, "learned": learned, "labels": labels}
        line = {"input_ids": [ids], "position_ids": [positions]}
        return {name: torch.tensor(value, dtype=torch.long) for name, value in {**line, **found}.items()}


def shared_tokens(rows: Sequence[Rendered]) -> int:
    """How many tokens at the start of these rows are computed once for all of them; 0 where that saves less than
    ``WORTH``.

    The last token of a prompt is never among them: it predicts each row's answer."""
    if len(rows) < 2:
        return 0
    prompts = [row.prompt_ids for row in rows]
    low, high = min(prompts), max(prompts)  # what the first and the last in order have in common, all have
    most = min(map(len, prompts)) - 1
    common = next((place for place in range(most) if low[place] != high[place]), max(most, 0))
    saved = common * (len(rows) - 1)
    return common if saved >= WORTH * sum(row.tokens for row in rows) else 0


Collator = Callable[[Sequence[Any]], dict[str, Any]]
IGNORED = -100


@dataclass(frozen=True)
class AnswerCollator:
    """Builds ``input_ids``, ``attention_mask``, ``position_ids`` [rows, length], ``labels`` [rows, answer length].

    ``labels`` holds the answer columns only (the last ones); padding there is -100. pad_id fills both sides.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        before = max(len(row.prompt_ids) for row in rows)
        after = max(len(row.completion_ids) for row in rows)
        ids = torch.full((len(rows), before + after), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full((len(rows), after), IGNORED, dtype=torch.long)
        for index, row in enumerate(rows):
            start, end = before - len(row.prompt_ids), before + len(row.completion_ids)
            ids[index, start:end] = torch.tensor(row.prompt_ids + row.completion_ids)
            mask[index, start:end] = 1
            labels[index, : len(row.completion_ids)] = torch.tensor(row.completion_ids)
            for begin, close in row.read:
                labels[index, begin:close] = IGNORED
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


@dataclass(frozen=True)
class TextBlockCollator:
    """Builds ``input_ids``, ``position_ids`` [rows, length] and ``labels`` [rows, length - 1] of packed raw text.

    There is no attention mask: positions that begin anew keep documents (and the padding, a document of its own) apart,
    as transformers reads them. A document's first token has label -100.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Packed]) -> dict[str, Any]:
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        positions = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = labels[index, : len(row.ids)] = torch.tensor(row.ids)
            bounds = (*row.starts, len(row.ids), length)
            for begin, end in pairwise(bounds):
                positions[index, begin:end] = torch.arange(end - begin)
                labels[index, begin : begin + 1] = IGNORED
        return {"input_ids": ids, "position_ids": positions, "labels": labels[:, 1:]}


def collator(objective: str, pad_id: int, model: Any) -> Collator:
    """The batch builder of an objective for this model."""
    if objective == "pretrain":
        return TextBlockCollator(pad_id)
    return PackedSequenceCollator() if fits(model) else AnswerCollator(pad_id)


def answer_loss(model: Any, batch: dict[str, Any], items: Any | None = None) -> torch.Tensor:
    """Mean cross-entropy over the labels, in nats. items: tokens to divide by (over accumulated batches)."""
    labels = batch["labels"]
    if "spans" in batch:
        return packed_loss(model, batch) / (items if items is not None else len(labels))
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch.get("attention_mask"),
        position_ids=batch["position_ids"],
        logits_to_keep=labels.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return total / (items if items is not None else (labels != IGNORED).sum())
