"""Rows of different length as one batch for a Hugging Face model: padded on the left, with what their adapters put before the text.

A row is read as [padding | embeddings before the text | text]. Keys and values before the text lie in the cache already, as
[padding | keys and values]; so padding may stand between them and the text, and the attention mask and positions leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.engine.virtual import Start


@dataclass
class Padded:
    """What a forward pass is given: ids [rows, length]; embedded [rows, length, hidden] in their place, or None; mask [rows, held +
    length], positions [rows, length]; the cache, which holds ``held`` places."""

    ids: torch.Tensor
    embedded: torch.Tensor | None
    mask: torch.Tensor
    positions: torch.Tensor
    cache: Any


def padded(model: Any, cache: Any, texts: Sequence[Sequence[int]], starts: Sequence[Start], pad: int) -> Padded:
    """texts: each row's token ids; starts: what stands before each; cache: an empty one, filled where a row has keys and values;
    pad: a token id that stands for nothing."""
    device, count = model.device, len(texts)
    held = max(start.held for start in starts)
    longest = max(start.read + len(text) for start, text in zip(starts, texts, strict=True))
    ids = torch.full((count, longest), pad, dtype=torch.long)
    mask = torch.zeros((count, held + longest), dtype=torch.long)
    for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, held + longest - len(text) - start.read :] = 1
        mask[row, held - start.held : held] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, held:]
    if held:
        _fill(cache, starts, held)
    return Padded(ids, _embedded(model, ids, texts, starts), mask, positions, cache)


def _fill(cache: Any, starts: Sequence[Start], held: int) -> None:
    """Each row's keys and values at the end of the first ``held`` places of every layer."""
    sample = next(start.keys_values for start in starts if start.keys_values is not None)
    layers, _, _, heads, width = sample.shape
    for layer in range(layers):
        both = torch.zeros(2, len(starts), heads, held, width, dtype=sample.dtype, device=sample.device)
        for row, start in enumerate(starts):
            if start.keys_values is not None:
                both[:, row, :, held - start.held :] = start.keys_values[layer].permute(1, 2, 0, 3)
        cache.update(both[0], both[1], layer)


def _embedded(model: Any, ids: torch.Tensor, texts: Sequence[Sequence[int]], starts: Sequence[Start]) -> torch.Tensor | None:
    if not any(start.read for start in starts):
        return None
    found: torch.Tensor = model.get_input_embeddings()(ids).clone()
    for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
        if start.embeddings is not None:
            end = ids.shape[1] - len(text)
            found[row, end - start.read : end] = start.embeddings.to(found.dtype)
    return found
