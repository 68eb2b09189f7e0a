"""Sums over places of a text, in nats: what its own tokens cost, and how far two distributions lie apart."""

from __future__ import annotations

import torch

PLACES = 128
"""Places whose distributions over the whole vocabulary are held at once."""


def costs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each place's token: logits [places, vocabulary], tokens [places] -> [places]."""
    return torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")


def divergences(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each place, p from ``logits`` and q from ``base`` [places, vocabulary] -> [places] (Kullback and Leibler 1951)."""
    here, there = logits.float().log_softmax(-1), base.float().log_softmax(-1)
    return torch.nn.functional.kl_div(there, here, reduction="none", log_target=True).sum(-1).clamp_(min=0.0)
