"""What a run learns by: one file a family. They are imported when a run needs them, because TRL takes seconds to import."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playground.training.objectives.objective import Objective

_FAMILIES = {
    "sft": "answers", "pretrain": "answers", "dpo": "pairs", "orpo": "pairs", "kto": "judged", "reward": "scorer", "grpo": "rewarded",
}  # fmt: skip


def get_objective(name: str) -> Objective:
    """The objective called ``name``, one of ``spec.OBJECTIVES``."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO's import warns of where it lies
    module = importlib.import_module(f"{__name__}.{_FAMILIES[name]}")
    made: Objective = module.make(name)
    return made
