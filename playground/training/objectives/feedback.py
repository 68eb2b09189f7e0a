"""Learning from feedback, by TRL's trainers.

From pairs of answers: ``dpo`` (Rafailov et al. 2023, arXiv:2305.18290) and ``orpo`` (Hong et al. 2024,
arXiv:2403.07691). From answers found good or bad: ``kto`` (Ethayarajh et al. 2024, arXiv:2402.01306). ``reward``: a
model that reads a request with an answer and gives one number (Bradley and Terry 1952, as used by Ouyang et al. 2022,
arXiv:2203.02155), its scores kept near zero in the mean (Eisenstein et al. 2023, arXiv:2312.09244). ``grpo``: learning
from its own replies (Shao et al. 2024, arXiv:2402.03300): one counts for more or less than the others to the same
prompt; no reference model (beta = 0). A reward is a check's grade or a reward model's score, from 0 to 1.

Rows are our renderer's token ids, so that what is trained on is what is asked later; TRL would render in its own way.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from playground.errors import InputError, RunFailedError
from playground.evaluation.checks import parse_check
from playground.methods import register_with_peft
from playground.methods.method import Method
from playground.training import objectives
from playground.training.model import LOCAL, evaluating, load_for_training, precision, trainable
from playground.training.objectives import Marked, Objective, Pair, Row, Sample, Setup, collated, generate, save_memory
from playground.training.spec import REPLIES, REWARD_MODEL, RunSpec, reply_tokens

logging.getLogger("trl").setLevel(logging.ERROR)

FIGURES = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
FEWEST = 2  # rows in a batch of kto: an answer is compared with another row's
HEAVIEST = 10.0  # how much more than the other kind one kind of kto's answers may weigh
CENTRE = 0.01  # how much the square of two scores' sum weighs beside the loss
EVAL_PROMPTS = 8  # held-out prompts that are answered at every checkpoint
Reward = Callable[[Sequence[list[int]], Sequence[list[int]], Sequence[str]], list[float]]
"""(prompts' token ids, replies' token ids, replies' texts) -> what each is worth."""


class Tokenised:
    """Mixed in before one of TRL's trainers: rows are token ids already."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """TRL would send its makers the kind of model and data."""

    def create_model_card(self, *rest: Any, **named: Any) -> None:
        """The card is ours, and written once, when the adapter is published."""


def build(
    trainer: type, config: Callable[..., Any], setup: Setup, rows: list[Any], rewards: Any = None, **settings: Any
) -> Trainer:
    """One of TRL's trainers. rewards: arguments of grpo's; settings: of its config."""
    # TRL computes the forward pass twice to save memory unless told otherwise
    save_memory(setup.model, setup.spec, must=setup.ran_out)
    own = {"gradient_checkpointing": False, "disable_dropout": True}
    with _given_model(setup):
        made: Trainer = type(trainer.__name__, (Tokenised, trainer), {})(
            model=setup.model,
            args=config(**{**setup.arguments, **own, **settings}),
            train_dataset=Dataset.from_list(rows) if type(rows) is list else rows,  # orpo's stand in for a data set
            processing_class=setup.tokenizer,
            **(rewards or {}),
        )
    return made


@contextlib.contextmanager
def _given_model(setup: Setup) -> Iterator[None]:
    """While a trainer is built that compares with a reference: the model stays as it was made.

    1. TRL lays a copy of every adapter beside it as its reference. That is right for one that has learned already
       (``start``); for a new one the reference is the base, reached by switching the adapter off, and a copy of some
       kinds would change the base's weights.
    2. It turns the trained weights of a 4-bit base into bf16, which many processors compute a hundred times slower.
    """
    model = setup.model
    weights = dict(model.named_parameters())
    before = {name: weight.data for name, weight in weights.items() if weight.requires_grad}
    replaced = hasattr(model, "peft_config") and not setup.spec.start
    if replaced:
        model.add_adapter = lambda *rest, **named: None
        model.get_parameter = lambda name: torch.empty_like(weights[name.replace(".ref.", ".default.")])
    try:
        yield
    finally:
        if replaced:
            del model.add_adapter, model.get_parameter
    for name, weight in model.named_parameters():
        if name in before:
            weight.data = before[name]


def measured_loss(trainer: Any, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The mean loss over ``rows``, and the named figures that the trainer logged on the way."""
    total = 0.0
    with evaluating(trainer.model):
        for batch, count in batches(trainer, rows):
            total += float(trainer.compute_loss(trainer.model, batch)) * count
    logged = trainer._metrics["eval"]
    found = {name: sum(logged[name]) / len(logged[name]) for name in names if logged.get(name)}
    logged.clear()  # the trainer would mix it into a later evaluation
    return total / len(rows), found


def batches(trainer: Any, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Collated rows on the model's device, and how many there are in each batch."""
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield collated(trainer, part), len(part)


class Dpo(Objective):
    """The better answer becomes likelier than the other one, measured from where the model began."""

    figures: tuple[str, ...] = FIGURES

    def trainer(self, setup: Setup) -> Trainer:
        return build(DPOTrainer, DPOConfig, setup, as_pairs(setup.rows), max_length=None)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return measured_loss(trainer, as_pairs(rows), FIGURES)


def as_pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """As TRL's collator for pairs takes them."""
    return [
        {"prompt_ids": r.prompt_ids, "chosen_ids": r.chosen.completion_ids, "rejected_ids": r.rejected.completion_ids}
        for r in rows
        if isinstance(r, Pair)
    ]


class _ORPO(ORPOTrainer):
    """ORPO's NLL part is taken over prompt and answer, as TRL computes it."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        """Rows come with their tokens; the prompt's are not learned in the part about odds."""
        prompt = feature["prompt_ids"]
        row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            ids = prompt + feature[f"{side}_ids"]
            row[f"{side}_input_ids"], row[f"{side}_attention_mask"] = ids, [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(prompt) + feature[f"{side}_ids"]
        return row


class _Rows(list[Any]):
    """ORPO's trainer maps its rows three times: twice for what is done already, once to ``tokenize_row``."""

    def map(self, function: Any, **named: Any) -> _Rows:
        return _Rows(function(row) for row in self) if getattr(function, "__name__", "") == "tokenize_row" else self


class Orpo(Objective):
    """Fine-tuning on the better answer, with a price on the odds of the other one; no reference model."""

    figures: tuple[str, ...] = (*FIGURES, "nll_loss", "log_odds_ratio")

    def trainer(self, setup: Setup) -> Trainer:
        return build(_ORPO, ORPOConfig, setup, _Rows(as_pairs(setup.rows)), max_length=setup.spec.max_tokens)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        total = 0.0
        sums = dict.fromkeys(self.figures, 0.0)
        with evaluating(trainer.model):
            for batch, count in batches(trainer, [trainer.tokenize_row(row) for row in as_pairs(rows)]):
                loss, figures = trainer.get_batch_loss_metrics(trainer.model, batch, "eval")
                total += float(loss) * count
                for name in sums:
                    sums[name] += figures[f"eval_{name}"] * count
        return total / len(rows), {name: value / len(rows) for name, value in sums.items()}


class Kto(Objective):
    """Good answers become likelier, bad ones less likely, each against the drift of the batch."""

    figures: tuple[str, ...] = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")

    def trainer(self, setup: Setup) -> Trainer:
        rows = [row for row in setup.rows if isinstance(row, Marked)]
        if len(rows) < FEWEST:
            words = f"kto compares answers within a batch and needs {FEWEST} rows; there is {len(rows)}. Add rows."
            raise RunFailedError(words)
        size = max(FEWEST, setup.arguments["per_device_train_batch_size"])
        random.Random(setup.spec.seed).shuffle(rows)  # the trainer takes them in order: each names its neighbour
        good = sum(row.good for row in rows)
        options = {"per_device_train_batch_size": size, "max_length": None, **_weights(good, len(rows) - good)}
        return build(KTOTrainer, KTOConfig, setup, as_marked(rows, size), **options)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        marked = as_marked([row for row in rows if isinstance(row, Marked)], trainer.args.per_device_train_batch_size)
        return measured_loss(trainer, marked, self.figures)


def _weights(good: int, bad: int) -> dict[str, Any]:
    """What the two kinds weigh, so that neither is drowned out by the other (equation 8: a ratio from 1 to 4/3)."""
    ratio = bad / good if good and bad else 1.0
    for_good, for_bad = (min(HEAVIEST, max(1.0, one)) for one in (ratio, 1 / ratio))
    return {"desirable_weight": for_good, "undesirable_weight": for_bad}


def as_marked(rows: Sequence[Marked], size: int) -> list[dict[str, Any]]:
    """As TRL's collator takes them, in batches of ``size``: each row carries the answer of the one before it in its
    batch, the first that of the last, for the drift (KL) of the batch. A batch of one borrows from the row before."""
    made: list[dict[str, Any]] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        for place, row in enumerate(part):
            other = part[place - 1] if len(part) > 1 else rows[start - 1]
            ids = {"completion_ids": row.answer.completion_ids, "KL_completion_ids": other.answer.completion_ids}
            made.append({"prompt_ids": row.prompt_ids, **ids, "label": row.good})
    return made


class Scorer(Objective):
    """The better answer gets the higher score."""

    figures: tuple[str, ...] = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")

    def load(self, spec: RunSpec, method: Method) -> Any:
        return load_for_training(Path(spec.base_path), method, spec.rank, spec.seed, spec.method_options, scorer=True)

    def trainer(self, setup: Setup) -> Trainer:
        options: dict[str, Any] = {"max_length": None, "center_rewards_coefficient": CENTRE}
        return build(RewardTrainer, RewardConfig, setup, as_wholes(setup.rows), **options)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        gaps = []
        with evaluating(trainer.model):
            for batch, count in batches(trainer, as_wholes(rows)):
                chosen, rejected = scores_of(trainer.model, batch).split(count)
                gaps.append(chosen - rejected)
        gap = torch.cat(gaps)
        loss = -torch.nn.functional.logsigmoid(gap).mean()
        return float(loss), {"accuracy": float((gap > 0).float().mean()), "margin": float(gap.mean())}

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """It writes nothing: the scores of both answers."""
        pairs = [sample.row for sample in samples if isinstance(sample.row, Pair)]
        with evaluating(trainer.model):
            scores = scores_of(trainer.model, collated(trainer, as_wholes(pairs))).tolist()
        said = []
        for pair, chosen, rejected in zip(pairs, scores[: len(pairs)], scores[len(pairs) :], strict=True):
            first = f"{chosen:+.2f} for the better answer: {_short(pair.chosen.completion_text)}"
            said.append(f"{first}\n{rejected:+.2f} for the other: {_short(pair.rejected.completion_text)}")
        return said


def scores_of(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """[rows]."""
    scores: torch.Tensor = model(**batch, use_cache=False).logits.float().squeeze(-1)
    return scores


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 80 else plain[:79] + "…"


def as_wholes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Prompt and answer in one, as TRL's collator takes them."""
    return [
        {f"{side}_ids": row.prompt_ids + getattr(row, side).completion_ids for side in ("chosen", "rejected")}
        for row in rows
        if isinstance(row, Pair)
    ]


def scored_by(base: Path, folder: Path, tokenizer: Any) -> Reward:
    """By a trained reward model, the base with adapter and head or a whole model: its score's logistic. Raises
    InputError when it cannot be loaded."""
    register_with_peft()
    whole, pad_id = not (folder / "adapter_config.json").is_file(), tokenizer.pad_token_id
    try:
        settings = LOCAL | {"num_labels": 1, "dtype": precision().compute}
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder if whole else base, **settings)
        model.config.pad_token_id = pad_id
        model = model if whole else trainable(PeftModel.from_pretrained(model, folder))
    except (OSError, ValueError, RuntimeError) as error:
        words = f"The reward model {folder.name} cannot be loaded: {str(error)[:200]}. Train it again."
        raise InputError(words) from error
    model.eval().requires_grad_(False).to(precision().device)

    def worth(prompts: Sequence[list[int]], replies: Sequence[list[int]], texts: Sequence[str]) -> list[float]:
        rows = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
        batch = {name: side.to(model.device) for name, side in objectives.padded(rows, pad_id, "right").items()}
        with evaluating(model):
            scores: list[float] = scores_of(model, batch).sigmoid().tolist()
        return scores

    return worth


def reward_of(name: str, spec: RunSpec, tokenizer: Any) -> Reward:
    """A reward by its name, as it was written. Raises InputError for one that cannot be read."""
    if name.startswith(REWARD_MODEL):
        return scored_by(Path(spec.base_path), Path(spec.reward_files[name]), tokenizer)
    kind, _, _ = name.partition(":")
    worth = parse_check(f"{kind}:{spec.reward_files[name]}" if name in spec.reward_files else name).grade
    return lambda prompts, replies, texts: [worth(text) for text in texts]


class _GRPO(GRPOTrainer):
    """Prompts are our tokens: TRL would add a second start token."""

    rendered: dict[str, list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [self.rendered[prompt] for prompt in prompts], None, {}


class Grpo(Objective):
    """Rewards are averaged, so that a reply is worth from 0 to 1."""

    figures: tuple[str, ...] = (
        *("reward", "reward_std", "frac_reward_zero_std"),
        *("completions/mean_length", "completions/clipped_ratio", "entropy"),
    )

    def __init__(self) -> None:
        self._rewards: dict[str, Reward] = {}
        self._most, self._limit = 0, 0
        self._replies: dict[tuple[int, ...], str] = {}

    def trainer(self, setup: Setup) -> Trainer:
        spec = setup.spec
        self._rewards = {name: reward_of(name, spec, setup.tokenizer) for name in spec.rewards}
        self._limit = spec.max_tokens
        self.figures = (*self.figures, *(f"rewards/{name}/mean" for name in self._rewards))
        self._most = reply_tokens((row.tokens - len(row.prompt_ids) for row in setup.rows), spec.max_tokens)
        fitted = [self._fitted(row.prompt_ids) for row in setup.rows]
        prompts = {setup.tokenizer.decode(ids): ids for ids in fitted}
        if not prompts:
            raise RunFailedError("grpo needs at least one prompt. Add rows.")
        options: dict[str, Any] = {
            "per_device_train_batch_size": REPLIES * min(-(-spec.batch_size // REPLIES), len(prompts)),
            "num_generations": REPLIES,
            "max_completion_length": self._most,
            "beta": 0.0,
            "reward_weights": [1 / len(self._rewards)] * len(self._rewards),
        }
        rows = [{"prompt": text, "prompt_ids": ids} for text, ids in prompts.items()]
        rewards = {"reward_funcs": [_as_trl(name, reward) for name, reward in self._rewards.items()]}
        trainer: Any = build(_GRPO, GRPOConfig, setup, rows, rewards, **options)
        trainer.rendered = prompts
        return cast(Trainer, trainer)

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        """1 less the mean worth of greedy replies, which are kept to be shown."""
        prompts = [self._fitted(row.prompt_ids) for row in rows[:EVAL_PROMPTS]]
        ids, texts = generate(trainer.model, trainer.processing_class, prompts, self._most)
        self._replies = {tuple(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
        figures: dict[str, float] = {}
        for name, reward in self._rewards.items():
            worth = reward(prompts, ids, texts)
            figures[f"rewards/{name}/mean"] = sum(worth) / len(worth)
        figures["reward"] = sum(figures.values()) / len(figures)
        return 1 - figures["reward"], figures

    def answers(self, trainer: Any, tokenizer: Any, samples: Sequence[Sample]) -> list[str]:
        """The replies of the last measurement, where it had these prompts."""
        prompts = [self._fitted(sample.row.prompt_ids) for sample in samples]
        if all(tuple(prompt) in self._replies for prompt in prompts):
            return [self._replies[tuple(prompt)] for prompt in prompts]
        return generate(trainer.model, tokenizer, prompts, self._most)[1]

    def _fitted(self, prompt: list[int]) -> list[int]:
        """A prompt that leaves room for the reply: its start goes."""
        return prompt[-max(1, self._limit - self._most) :]


def _as_trl(name: str, reward: Reward) -> Any:
    def worth(prompts: Any, completions: Any, completion_ids: Any, prompt_ids: Any, **rest: Any) -> list[float]:
        return reward(prompt_ids, completion_ids, completions)

    worth.__name__ = name
    return worth


MADE: dict[str, type[Objective]] = {"dpo": Dpo, "orpo": Orpo, "kto": Kto, "reward": Scorer, "grpo": Grpo}
