"""What a run learns by: one file a family, imported when needed, because TRL takes seconds to import."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playground.training.objectives.objective import Objective

_MODULES = {"sft": "sft", "pretrain": "sft", "reward": "reward_model", "grpo": "grpo"}
"""The rest is ``preference``."""


def get_objective(name: str) -> Objective:
    """The objective called ``name``, one of ``spec.OBJECTIVES``."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO's import warns that it is experimental
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'preference')}")
    made: Objective = module.make(name)
    return made
