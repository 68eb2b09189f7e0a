"""The private parts of transformers and PEFT that training relies on, in one place (TRL's are in
``objectives/trl.py``).

``tests/training/test_internals.py`` checks that the installed versions still have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Sampler
from transformers import Trainer

USED = {Trainer: ("_load_from_checkpoint", "_get_train_sampler", "_get_num_items_in_batch", "_prepare_inputs")}


def load_weights(trainer: Trainer, checkpoint: Path) -> None:
    """The trained weights of a checkpoint, into the trainer's model, without its optimiser."""
    trainer._load_from_checkpoint(str(checkpoint))


def collated(trainer: Trainer, rows: Sequence[Any]) -> dict[str, Any]:
    """Rows as one batch on the model's device."""
    return dict(trainer._prepare_inputs(trainer.data_collator(list(rows))))


class LossTrainer(Trainer):
    """A Trainer whose batches, loss and count of learned tokens are ours.

    loss: (model, batch, tokens to divide by) -> mean loss. learned: learned tokens of a batch. sampler: of the training
    rows, None = the Trainer's own."""

    def __init__(
        self,
        *,
        loss: Callable[[Any, dict[str, Any], Any], Any],
        learned: Callable[[dict[str, Any]], Any],
        sampler: Sampler[int] | None,
        **options: Any,
    ) -> None:
        self._loss_of, self._learned_in, self._row_sampler = loss, learned, sampler
        super().__init__(**options)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the batch's learned tokens itself

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = self._loss_of(model, inputs, num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._row_sampler if self._row_sampler is not None else super()._get_train_sampler(train_dataset)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """The Trainer would leave out each row's first token, as if these labels were still to be shifted."""
        return sum(self._learned_in(batch) for batch in batch_samples).to(device)


def with_class(model: Any, subclass: type) -> Any:
    """A PEFT model as an instance of a subclass: PEFT's loaders choose the class by the task."""
    if not issubclass(subclass, type(model)):
        raise TypeError(f"{subclass.__name__} is no {type(model).__name__}")
    model.__class__ = subclass
    return model
