"""Batches for the Hugging Face backend: sequences padded on the left, with their soft prompts; and scoring over them.

A row is read as [padding | embeddings before the text | text]. Keys and values before the text lie in the KV cache
already, as [padding | keys and values]; so padding may stand between them and the text, and the attention mask and
positions leave it out.

Scored rows are never read in pieces, and the logits are always the model's own: some families change them after the
head, or read a long row otherwise than its start. Where a batch has more scored places than may be held at once, it is
read again for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.engine.adapter_weights import NO_SOFT_PROMPT, SoftPrompt
from playground.engine.scoring import PLACES, Score, Text, parts, token_divergences, token_losses


@dataclass
class Padded:
    """Inputs of a forward pass: ids [rows, length]; embedded [rows, length, hidden] in their place, or None; mask
    [rows, held + length], positions [rows, length]; the KV cache, which holds ``held`` places."""

    ids: torch.Tensor
    embedded: torch.Tensor | None
    mask: torch.Tensor
    positions: torch.Tensor
    cache: Any


def padded(
    model: Any, cache: Any, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt], pad_id: int
) -> Padded:
    """texts: each row's token ids; prompts: the soft prompt before each; cache: an empty one."""
    device, count = model.device, len(texts)
    held = max(prompt.held for prompt in prompts)
    longest = max(prompt.read + len(text) for prompt, text in zip(prompts, texts, strict=True))
    ids = torch.full((count, longest), pad_id, dtype=torch.long)
    mask = torch.zeros((count, held + longest), dtype=torch.long)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, held + longest - len(text) - prompt.read :] = 1
        mask[row, held - prompt.held : held] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, held:]
    if held:
        _fill(cache, prompts, held)
    return Padded(ids, _embedded(model, ids, texts, prompts), mask, positions, cache)


def _fill(cache: Any, prompts: Sequence[SoftPrompt], held: int) -> None:
    """Each row's keys and values at the end of the first ``held`` places of every layer."""
    sample = next(prompt.keys_values for prompt in prompts if prompt.keys_values is not None)
    layers, _, _, heads, width = sample.shape
    for layer in range(layers):
        both = torch.zeros(2, len(prompts), heads, held, width, dtype=sample.dtype, device=sample.device)
        for row, prompt in enumerate(prompts):
            if prompt.keys_values is not None:
                both[:, row, :, held - prompt.held :] = prompt.keys_values[layer].permute(1, 2, 0, 3)
        cache.update(both[0], both[1], layer)


def _embedded(
    model: Any, ids: torch.Tensor, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt]
) -> torch.Tensor | None:
    if not any(prompt.read for prompt in prompts):
        return None
    found: torch.Tensor = model.get_input_embeddings()(ids).clone()
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if prompt.embeddings is not None:
            end = ids.shape[1] - len(text)
            found[row, end - prompt.read : end] = prompt.embeddings.to(found.dtype)
    return found


Logits = Callable[[Sequence[Sequence[int]], Sequence[SoftPrompt], Sequence[int], tuple[int, int]], torch.Tensor]
"""(token ids of rows, soft prompt of each, slot of each, (begin, end) counted back from the right edge) -> logits
[rows, begin - end, vocabulary] of these columns."""


@dataclass
class _Sums:
    loss: float = 0.0
    divergence: float = 0.0
    base_loss: float = 0.0


def scores(
    logits: Logits,
    texts: Sequence[Text],
    slots: Sequence[int],
    prompts: Sequence[SoftPrompt],
    alone: Callable[[int, SoftPrompt], bool],
) -> Iterator[tuple[int, Score]]:
    """(place among ``texts``, its score) as they are done. alone: whether a row must not share a batch."""
    together = [place for place, text in enumerate(texts) if not alone(len(text.ids), prompts[place])]
    batches = [[together[i] for i in part] for part in parts([len(texts[place].ids) for place in together])]
    batches += [[place] for place in range(len(texts)) if place not in set(together)]
    for batch in batches:
        rows = [texts[place] for place in batch]
        sums = [_Sums() for _ in batch]
        longest, wide = max(text.scored for text in rows), max(1, PLACES // len(rows))
        for begin in range(longest, 0, -wide):
            columns = begin, max(0, begin - wide)
            _add(logits, rows, [slots[place] for place in batch], [prompts[place] for place in batch], columns, sums)
        for place, text, total in zip(batch, rows, sums, strict=True):
            count = text.scored
            extra = (total.divergence / count, total.base_loss / count) if text.divergence else (None, None)
            yield place, Score(count, total.loss / count, *extra)


def _add(
    logits: Logits,
    rows: Sequence[Text],
    slots: Sequence[int],
    prompts: Sequence[SoftPrompt],
    columns: tuple[int, int],
    sums: Sequence[_Sums],
) -> None:
    """Add these columns' losses to the rows' sums; without the last token, column c predicts the token at -c."""
    ids = [text.ids[:-1] for text in rows]
    begin, end = columns
    own_logits = logits(ids, prompts, slots, columns)
    wanted = [place for place, text in enumerate(rows) if text.divergence]
    base_logits = None
    if wanted:
        base_logits = logits([ids[p] for p in wanted], [NO_SOFT_PROMPT] * len(wanted), [0] * len(wanted), columns)
    for place, (text, total) in enumerate(zip(rows, sums, strict=True)):
        count = min(begin, text.scored) - end
        if count <= 0:
            continue
        tokens = torch.tensor(text.ids[len(text.ids) - end - count : len(text.ids) - end], device=own_logits.device)
        own = own_logits[place, -count:]
        total.loss += float(token_losses(own, tokens).sum())
        if base_logits is not None and place in wanted:
            base = base_logits[wanted.index(place), -count:]
            total.base_loss += float(token_losses(base, tokens).sum())
            total.divergence += float(token_divergences(own, base).sum())
