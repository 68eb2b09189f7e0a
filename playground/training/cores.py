"""A run's share of the processor's cores."""

from __future__ import annotations

from typing import Any

import torch

from playground.gpu.lanes import Lanes, use_share


def share_cores(model: Any, lanes: Lanes) -> None:
    """Say that this process trains, and before every forward pass use the threads that are the run's then. On CUDA it does nothing.

    Every forward pass begins with the input embeddings: a step's, an evaluation's, and each token's of a reply that is written."""
    if torch.cuda.is_available():
        return

    def share(module: Any, given: Any) -> None:
        lanes.enter("train")
        use_share(lanes, "train")

    model.get_input_embeddings().register_forward_pre_hook(share)
