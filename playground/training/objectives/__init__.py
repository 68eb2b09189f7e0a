"""What a run learns by: what objectives share, and ``sft`` (answers to requests) and ``pretrain`` (raw text) through
transformers' Trainer.

Prompts with answers are packed without padding (``fused.py``) where the base's forward pass is written out for that.
Elsewhere prompts are padded on the left and answers on the right, so that all answers begin in the same column and the
language-model head need only run from there on. Raw text comes in blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from playground.data.render import Packed, Rendered, end_ids
from playground.gpu.device import find_device
from playground.methods.method import Method
from playground.training.fused import fits, packed_loss
from playground.training.model import evaluating, held_bytes, load_for_training, precision
from playground.training.spec import RunSpec

Collator = Callable[[Sequence[Any]], dict[str, Any]]
SAMPLE_TOKENS = 64
IGNORED = -100
WINDOW = 16  # batches whose rows are sorted by length together: enough to pad little, few enough to differ by epoch
WORTH = 1 / 50  # share of a batch's tokens that sharing a prefix must save: below that the bookkeeping costs as much


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; both rows hold the same prompt tokens."""

    chosen: Rendered
    rejected: Rendered

    @property
    def prompt_ids(self) -> list[int]:
        return self.chosen.prompt_ids

    @property
    def tokens(self) -> int:
        return self.chosen.tokens + self.rejected.tokens


@dataclass(frozen=True, slots=True)
class Marked:
    """One answer and whether it was good."""

    answer: Rendered
    good: bool

    @property
    def prompt_ids(self) -> list[int]:
        return self.answer.prompt_ids

    @property
    def tokens(self) -> int:
        return self.answer.tokens


Row = Rendered | Packed | Pair | Marked


@dataclass(frozen=True)
class Setup:
    """What a Trainer is made of. rows, validation: of the objective's own kind. arguments: of TrainingArguments.
    ran_out: memory has run out once already."""

    model: Any
    tokenizer: Any
    rows: Sequence[Row]
    validation: Sequence[Row]
    spec: RunSpec
    arguments: Mapping[str, Any]
    ran_out: bool = False


@dataclass(frozen=True)
class Sample:
    """A held-out row that is asked at every checkpoint. question: for a person; "" for raw text."""

    question: str
    row: Row


class Objective:
    """One way to learn; as it stands, of a model that writes replies.
    figures: which of the Trainer's own figures belong into the events of a step."""

    figures: tuple[str, ...] = ()

    def load(self, spec: RunSpec, method: Method) -> Any:
        """The model to train: the base with the method's part on top."""
        start = Path(spec.start_path) if spec.start_path else None
        given = Path(spec.base_path), method, spec.rank, spec.seed, spec.method_options
        model = load_for_training(*given, start=start, rounded=spec.precision == "bf16")
        if start is not None and hasattr(model, "peft_config"):
            # PEFT would ask a hub for a base of that name at every checkpoint
            model.peft_config["default"].base_model_name_or_path = spec.base_path
        return model

    def trainer(self, setup: Setup) -> Trainer:
        """Made anew for every run. Raises RunFailedError when the rows cannot make a batch."""
        raise NotImplementedError

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        """The loss on held-out rows, lower is better, and its figures. The model's mode is put back."""
        raise NotImplementedError

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """What the model answers to each sample now: greedy replies of SAMPLE_TOKENS at most, one batch."""
        return generate(trainer.model, tokenizer, [sample.row.prompt_ids for sample in samples], SAMPLE_TOKENS)[1]


def padded(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` [rows, longest], padded on one side."""
    lines = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = pad_sequence(lines, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(line) for line in lines], batch_first=True, padding_side=side)
    return {"input_ids": ids, "attention_mask": mask}


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int
) -> tuple[list[list[int]], list[str]]:
    """Greedy replies to prompts of token ids, ``most`` tokens each at most: (ids up to and with the end token, texts).
    One batch; prompts are padded on the left."""
    pad_id, ends = tokenizer.pad_token_id, end_ids(tokenizer)
    batch = padded(prompts, pad_id, "left")
    device, longest = next(model.parameters()).device, batch["input_ids"].shape[1]
    given = {name: side.to(device) for name, side in batch.items()}
    with evaluating(model):
        how = {"do_sample": False, "use_cache": True, "pad_token_id": pad_id, "eos_token_id": list(ends) or None}
        out = model.generate(**given, max_new_tokens=most, **how)
    rows = []
    for row in out[:, longest:].tolist():
        rows.append(row[: next((at for at, one in enumerate(row, 1) if one in ends), len(row))])
    return rows, [str(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


class LossTrainer(Trainer):
    """A Trainer whose loss and count of learned tokens are ours. sampler: of the training rows, None = its own."""

    def __init__(self, *, sampler: Sampler[int] | None, **options: Any) -> None:
        self._row_sampler = sampler
        super().__init__(**options)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the batch's learned tokens itself

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with precision().autocast():  # the Trainer would put it around the model's forward pass, not around ours
            loss = answer_loss(model, inputs, num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._row_sampler if self._row_sampler is not None else super()._get_train_sampler(train_dataset)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """The Trainer would leave out each row's first token, as if these labels were still to be shifted."""
        return sum(map(learned_tokens, batch_samples)).to(device)  # type: ignore[union-attr]


def collated(trainer: Trainer, rows: Sequence[Any]) -> dict[str, Any]:
    return dict(trainer._prepare_inputs(trainer.data_collator(list(rows))))


class PackedSequenceCollator:
    """Builds ``input_ids`` and ``position_ids`` [1, tokens], ``spans`` [1 + rows], ``learned`` and ``labels`` [tokens
    that count]. spans: tokens of the shared prefix (0 = none is shared), then those of each row's rest. learned: the
    place in the line that predicts each label. A row's last token predicts nothing, so it is not read."""

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
    ``WORTH``. The last token of a prompt is never among them: it predicts each row's answer."""
    if len(rows) < 2:
        return 0
    prompts = [row.prompt_ids for row in rows]
    low, high = min(prompts), max(prompts)  # what the first and the last in order have in common, all have
    most = min(map(len, prompts)) - 1
    common = next((place for place in range(most) if low[place] != high[place]), max(most, 0))
    return common if common * (len(rows) - 1) >= WORTH * sum(row.tokens for row in rows) else 0


@dataclass(frozen=True)
class AnswerCollator:
    """Builds ``input_ids``, ``attention_mask``, ``position_ids`` [rows, length], ``labels`` [rows, answer length].
    ``labels`` holds the answer columns only (the last ones); padding there is -100. pad_id fills both sides."""

    pad_id: int

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        prompts = padded([row.prompt_ids for row in rows], self.pad_id, "left")
        answers = padded([row.completion_ids for row in rows], self.pad_id, "right")
        labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED)
        for index, row in enumerate(rows):
            for begin, end in row.read:
                labels[index, begin:end] = IGNORED
        both = {name: torch.cat((prompts[name], answers[name]), dim=1) for name in prompts}
        return {**both, "position_ids": (both["attention_mask"].cumsum(1) - 1).clamp(min=0), "labels": labels}


@dataclass(frozen=True)
class TextBlockCollator:
    """Builds ``input_ids``, ``position_ids`` [rows, length] and ``labels`` [rows, length - 1] of packed raw text.
    There is no attention mask: positions that begin anew keep documents (and the padding, a document of its own) apart,
    as transformers reads them. A document's first token has label -100."""

    pad_id: int

    def __call__(self, rows: Sequence[Packed]) -> dict[str, Any]:
        ids, mask = padded([row.ids for row in rows], self.pad_id, "right").values()
        positions, labels = torch.zeros_like(ids), ids.masked_fill(mask == 0, IGNORED)
        for index, row in enumerate(rows):
            for begin, end in pairwise((*row.starts, len(row.ids), ids.shape[1])):
                positions[index, begin:end] = torch.arange(end - begin)
                labels[index, begin : begin + 1] = IGNORED
        return {"input_ids": ids, "position_ids": positions, "labels": labels[:, 1:]}


def collator(objective: str, pad_id: int, model: Any) -> Collator:
    if objective == "pretrain":
        return TextBlockCollator(pad_id)
    return PackedSequenceCollator() if fits(model) else AnswerCollator(pad_id)


def answer_loss(model: Any, batch: dict[str, Any], items: Any | None = None) -> torch.Tensor:
    """Mean cross-entropy over the labels, in nats. items: tokens to divide by (over accumulated batches)."""
    labels = batch["labels"]
    if "spans" in batch:
        return packed_loss(model, batch) / (len(labels) if items is None else items)
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
    mean: torch.Tensor = total / (learned_tokens(batch) if items is None else items)
    return mean


def learned_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (batch["labels"] != IGNORED).sum()


def mean_loss(model: Any, rows: Sequence[Any], batch_size: int, collate: Collator) -> float:
    """Mean loss over all tokens with a label of ``rows``, in nats a token; the model's mode is put back."""
    device, total, count = next(model.parameters()).device, 0.0, 0
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = {key: value.to(device) for key, value in collate(rows[start : start + batch_size]).items()}
            items = int(learned_tokens(batch))
            total += float(answer_loss(model, batch)) * items
            count += items
    return total / count


class Buckets(Sampler[int]):
    """Row numbers of padded rows, ``batch_size`` neighbours of like length a batch; the batches come in random order.
    Every epoch holds each row once and draws anew from (seed, epoch), so a resumed run sees what the uninterrupted one
    would have seen."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        drawn = torch.randperm(len(self._lengths), generator=generator).tolist()
        size, window = self._batch_size, self._batch_size * WINDOW
        full = len(drawn) - len(drawn) % size  # the rows that are left over make the last batch, whatever their lengths
        batches = []
        for start in range(0, full, window):
            part = sorted(drawn[start : min(start + window, full)], key=lambda row: self._lengths[row])
            batches += [part[at : at + size] for at in range(0, len(part), size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from drawn[full:]


class Answers(Objective):
    """Cross-entropy over the tokens that are learned."""

    name = "sft"
    row: type[Rendered] | type[Packed] = Rendered

    def trainer(self, setup: Setup) -> Trainer:
        save_memory(setup.model, setup.spec, must=setup.ran_out)
        self._collate = collate = collator(self.name, setup.tokenizer.pad_token_id, setup.model)
        arguments, sampler = TrainingArguments(**setup.arguments), None
        if isinstance(collate, AnswerCollator):  # packed sequences have no padding
            lengths = [row.tokens for row in setup.rows]
            a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
            sampler = Buckets(lengths, a_step, arguments.data_seed or 0)
        columns = {item.name: [getattr(row, item.name) for row in setup.rows] for item in fields(self.row)}
        return LossTrainer(
            sampler=sampler,
            model=setup.model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            data_collator=lambda rows: collate([self.row(**row) for row in rows]),
        )

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return mean_loss(trainer.model, rows, trainer.args.per_device_train_batch_size, self._collate), {}


class Texts(Answers):
    """The same over every token of raw text."""

    name = "pretrain"
    row = Packed


def exceeds(estimated_bytes: int, limit_bytes: int, free_bytes: int) -> bool:
    """Whether a run's estimate goes past its own limit (0 = it has none), or past what is free for it."""
    return estimated_bytes > (min(limit_bytes, free_bytes) if limit_bytes else free_bytes)


def save_memory(model: Any, spec: RunSpec, *, must: bool = False) -> bool:
    """Switch on activation checkpointing where the run would not fit otherwise, or ``must``: a third slower. Returns
    whether it is on. Keys and values that stand in a cache before the text cannot be recomputed; such a model stays as
    it is."""
    if not must and not exceeds(
        spec.estimated_memory_bytes, spec.limit_memory_bytes, find_device().free_bytes + held_bytes()
    ):
        return False
    if getattr(model, "in_cache", False):
        return False
    model.recompute = True
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if getattr(base, "supports_gradient_checkpointing", False):
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # its newer name, its older
    return True


def get_objective(name: str) -> Objective:
    """The objective called ``name``, one of ``spec.OBJECTIVES``. TRL's are imported when needed: it takes seconds."""
    if name in ("sft", "pretrain"):
        return Answers() if name == "sft" else Texts()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO's import warns that it is experimental
    from playground.training.objectives.feedback import MADE

    return MADE[name]()
