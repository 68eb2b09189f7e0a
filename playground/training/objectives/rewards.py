"""What a reply is worth: a check's grade, or a reward model's score, from 0 to 1 each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.evaluation.checks import parse_check
from playground.evaluation.grades import grade
from playground.training.spec import REWARD_MODEL, RunSpec

Reward = Callable[[Sequence[list[int]], Sequence[list[int]], Sequence[str]], list[float]]
"""(prompts' token ids, replies' token ids, replies' texts) -> what each is worth."""


def rewards_of(spec: RunSpec, tokenizer: Any) -> dict[str, Reward]:
    """Every reward of a run by its name, as it was written. Raises InputError for one that cannot be read."""
    return {name: _reward(name, spec, tokenizer) for name in spec.rewards}


def _reward(name: str, spec: RunSpec, tokenizer: Any) -> Reward:
    if name.startswith(REWARD_MODEL):
        return ScoredBy(Path(spec.base_path), Path(spec.reward_files[name]), tokenizer)
    kind, _, _ = name.partition(":")
    written = f"{kind}:{spec.reward_files[name]}" if name in spec.reward_files else name
    worth = grade(parse_check(written))
    return lambda prompts, replies, texts: [worth(text) for text in texts]


class ScoredBy:
    """A trained reward model: the base with its adapter and head, or a whole model. Its score's logistic is what a reply is worth."""

    def __init__(self, base: Path, folder: Path, tokenizer: Any) -> None:
        """Raises InputError when it cannot be loaded."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        from playground.methods import bottleneck
        from playground.training.model import training_dtype
        from playground.training.tuned import tuned

        bottleneck.register()
        whole = not (folder / "adapter_config.json").is_file()
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder if whole else base, num_labels=1, dtype=training_dtype(), trust_remote_code=False, local_files_only=True,
                use_safetensors=True,
            )  # fmt: skip
            model.config.pad_token_id = tokenizer.pad_token_id
            self._model = model if whole else tuned(PeftModel.from_pretrained(model, folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"The reward model {folder.name} cannot be loaded: {str(error)[:200]}. Train it again.") from error
        self._model.eval().requires_grad_(False)
        if torch.cuda.is_available():
            self._model.to("cuda")
        self._pad = tokenizer.pad_token_id

    def __call__(self, prompts: Sequence[list[int]], replies: Sequence[list[int]], texts: Sequence[str]) -> list[float]:
        import torch

        rows = [torch.tensor([*prompt, *reply]) for prompt, reply in zip(prompts, replies, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        device = next(self._model.parameters()).device
        with torch.no_grad():
            scores = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        worth: list[float] = scores.float().squeeze(-1).sigmoid().tolist()
        return worth
