"""PEFT's models as training needs them: virtual tokens that nobody outside sees, and checkpoints from which every
method goes on.

What PEFT leaves open for methods with virtual tokens (0.21):
1. A prompt before left-padded rows loses its positions; here every row is what it would be alone.
2. Logits of the virtual tokens come back with those of the text; here they are cut off, so that any trainer's labels
   fit.
3. A checkpoint holds what a network made of the virtual tokens, not the network, and cannot be gone on from (for
   P-tuning that goes unnoticed); here what is trained lies beside it, in ``trained.safetensors``.
4. A prefix's network runs once for every row of a batch; here once.
5. A score is read off the last token that is no padding, which cannot be told behind embeddings; here such rows are
   padded on the left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModelForCausalLM, PeftModelForSequenceClassification
from safetensors.torch import load_file, save_file

from playground.training.checkpoint import STATE
from playground.training.internals import with_class


class TrainableAdapter:
    """What both kinds of model share. Stands before PEFT's class, so ``super()`` is PEFT."""

    active_peft_config: Any
    base_model: Any
    word_embeddings: Any
    named_parameters: Any

    @property
    def _virtual(self) -> int:
        """How many virtual tokens stand before the text."""
        config = self.active_peft_config
        return int(config.num_virtual_tokens) if config.is_prompt_learning else 0

    @property
    def in_cache(self) -> bool:
        return str(self.active_peft_config.peft_type.value) == "PREFIX_TUNING"

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """The adapter as PEFT writes it (no trainer's reference beside it), and ``STATE`` where that is not all."""
        super().save_pretrained(str(save_directory), **{"selected_adapters": ["default"], **options})  # type: ignore[misc]
        if self._virtual:
            trained = {name: p.detach().cpu().contiguous() for name, p in self._learned().items()}
            save_file(trained, Path(save_directory) / STATE)

    def load_adapter(self, model_id: str, adapter_name: str, *others: Any, **options: Any) -> Any:
        """From a checkpoint of ours what is trained, exactly; anything else as PEFT does."""
        state = Path(model_id) / STATE
        if adapter_name != "default" or not state.is_file():
            return super().load_adapter(model_id, adapter_name, *others, **options)  # type: ignore[misc]
        saved, learned = load_file(state), self._learned()
        if saved.keys() != learned.keys():
            raise ValueError(f"{state} holds {sorted(saved)}; this model learns {sorted(learned)}.")
        with torch.no_grad():
            for name, value in saved.items():
                learned[name].copy_(value)
        return None

    def _learned(self) -> dict[str, torch.nn.Parameter]:
        names = (".default.", ".modules_to_save.")
        return {
            name: p for name, p in self.named_parameters() if p.requires_grad and any(part in name for part in names)
        }

    def get_prompt(self, batch_size: int, task_ids: Any = None, max_cache_len: int | None = None) -> Any:
        """A prefix's keys and values are made once and repeated for every row; gradients add up through that."""
        if not self.in_cache or batch_size == 1:
            return super().get_prompt(batch_size, task_ids, max_cache_len)  # type: ignore[misc]
        made = super().get_prompt(1, task_ids, max_cache_len)  # type: ignore[misc]
        made.batch_repeat_interleave(batch_size)
        return made

    def _adjust_prompt_learning_kwargs(self, peft_config: Any, *, kwargs: dict[str, Any], **others: Any) -> None:
        """PEFT would warn that it ignores positions; ours are put back afterwards."""
        if not self.in_cache:
            kwargs.pop("position_ids", None)
        super()._adjust_prompt_learning_kwargs(peft_config, kwargs=kwargs, **others)  # type: ignore[misc]

    def _widened(
        self, input_ids: Any, attention_mask: Any, inputs_embeds: Any, position_ids: Any
    ) -> tuple[dict[str, Any], int]:
        """(the base's inputs after the virtual tokens, length of the text). Positions count what is attended to."""
        given = inputs_embeds if input_ids is None else input_ids
        rows, length = given.shape[:2]
        many = self._virtual
        if attention_mask is None:
            attention_mask = torch.ones((rows, length), dtype=torch.long, device=given.device)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        mask = torch.cat((attention_mask.new_ones((rows, many)), attention_mask), dim=1)
        inputs: dict[str, Any] = {"attention_mask": mask, "position_ids": position_ids + many}
        if self.in_cache:
            inputs |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "past_key_values": self.get_prompt(rows)}
            return inputs, length
        text = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        first = torch.arange(many, device=given.device).expand(rows, many)
        inputs["inputs_embeds"] = torch.cat((self.get_prompt(rows).to(text.dtype), text), dim=1)
        inputs["position_ids"] = torch.cat((first, inputs["position_ids"].expand(rows, length)), dim=1)
        return inputs, length


# PEFT declares some of these otherwise
class TrainableLM(TrainableAdapter, PeftModelForCausalLM):  # type: ignore[misc]
    """Writes text. Logits are [rows, length of the text, vocabulary], with or without virtual tokens."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        **others: Any,
    ) -> Any:
        if not self._virtual:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
            return super().forward(**given, labels=labels, position_ids=position_ids, **others)
        inputs, length = self._widened(input_ids, attention_mask, inputs_embeds, position_ids)
        if labels is not None and not self.in_cache:
            labels = torch.cat((labels.new_full((labels.shape[0], self._virtual), -100), labels), dim=1)
        out = self.base_model(labels=labels, **inputs, **others)
        if getattr(out, "logits", None) is not None and out.logits.shape[1] > length:
            out.logits = out.logits[:, -length:]
        return out

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As PEFT, with positions that count what is attended to: rows of different length may be written together.
        (transformers looks for the very name ``kwargs``.)"""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        mask = inputs.get("attention_mask")
        if self._virtual and isinstance(mask, torch.Tensor) and mask.dim() == 2:
            given = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
        return inputs


class TrainableScorer(TrainableAdapter, PeftModelForSequenceClassification):  # type: ignore[misc]
    """Scores text: logits are [rows, labels], read off each row's last token."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        **others: Any,
    ) -> Any:
        if not self._virtual:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
            if position_ids is not None:
                given["position_ids"] = position_ids
            return super().forward(**given, labels=labels, **others)
        if not self.in_cache and input_ids is not None and attention_mask is not None:
            order = attention_mask.argsort(dim=1, stable=True)  # padding to the left, the rest as it was
            input_ids, attention_mask, position_ids = input_ids.gather(1, order), attention_mask.gather(1, order), None
        inputs, _ = self._widened(input_ids, attention_mask, inputs_embeds, position_ids)
        return self.base_model(labels=labels, **inputs, **others)


def trainable(model: Any) -> Any:
    """A PEFT model as one of ours."""
    scores = isinstance(model, PeftModelForSequenceClassification)
    return with_class(model, TrainableScorer if scores else TrainableLM)
