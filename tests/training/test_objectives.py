"""Every objective for real, on the tiny model with the real tokenizer: it learns, tells of it, is saved, goes on, and
is refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.data.check import check_file
from playground.data.example import Message
from playground.data.render import encode, load_tokenizer, render_prompt
from playground.errors import RunFailedError
from playground.training.checkpoint import newest_complete
from playground.training.spec import OBJECTIVES, RunSpec
from playground.training.trainer import TrainingData, prepare

FIGURE = {
    "dpo": "rewards/accuracies",
    "kto": "rewards/margins",
    "orpo": "rewards/accuracies",
    "reward": "accuracy",
    "grpo": "reward",
}


NUMBERS = [f"Say number {n}" for n in range(16)]
ANSWERS = [{"prompt": text, "completion": f"Number {n}, gladly."} for n, text in enumerate(NUMBERS)]
PAIRS = [{"prompt": text, "chosen": f"Number {n}, gladly.", "rejected": f"No {n}."} for n, text in enumerate(NUMBERS)]
JUDGED = [
    {"prompt": text, "completion": f"Number {n}, gladly." if n % 2 else f"No {n}.", "label": bool(n % 2)}
    for n, text in enumerate(NUMBERS)
]
ROWS = {"dpo": PAIRS, "orpo": PAIRS, "reward": PAIRS, "kto": JUDGED, "grpo": ANSWERS, "sft": ANSWERS}


@pytest.fixture
def spec_of(spec_in: Callable[..., RunSpec], tmp_path: Path) -> Callable[..., RunSpec]:
    def made(objective: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> RunSpec:
        own: dict[str, Any] = {"objective": objective, "max_tokens": 128, "lr": 1e-2}
        if objective == "grpo":
            own |= {"rewards": ["contains:the", "max-words:20"], "max_tokens": 64}
        return spec_in(tmp_path, rows or ROWS[objective], **(own | changes))

    return made


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto", "reward", "grpo"])
def test_it_learns_and_says_so(spec_of: Any, run_worker: Any, tmp_path: Path, objective: str) -> None:
    """And a cancelled run goes on from its checkpoint to where the uninterrupted one ends."""
    spec = spec_of(objective)
    events = run_worker(spec, tmp_path / "run")
    done = events[-1]
    assert done["event"] == "done", done
    steps = of(events, "step")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    for step in steps:
        assert {"loss", "lr", "grad_norm", "tokens_per_s", "seconds_left", "memory_bytes", "figures"} <= step.keys()
        assert FIGURE[objective] in step["figures"] or objective == "kto", step["figures"]
    assert [event["step"] for event in of(events, "eval")] == [0, 2, 4]
    assert [event["step"] for event in of(events, "saved")] == [2, 4]
    samples = of(events, "sample")
    asked = {event["index"]: event["prompt"] for event in samples}
    assert len(samples) == 3 * len(asked)
    assert all(text.startswith("Say number") for text in asked.values())
    first, last = of(events, "eval")[0], of(events, "eval")[-1]
    if objective != "grpo":  # a random model's replies are noise
        assert min(event["loss"] for event in of(events, "eval")) < first["loss"]
    if objective in ("dpo", "reward"):
        name = "rewards/accuracies" if objective == "dpo" else "accuracy"
        assert steps[-1]["figures"][FIGURE[objective]] >= 0.75
        assert last["figures"][name] == 1.0
    if objective == "grpo":
        assert 0 <= steps[0]["figures"]["reward"] <= 1
        assert set(spec.rewards) <= {name.split("/")[1] for name in steps[0]["figures"] if name.startswith("rewards/")}
    _loads(Path(spec.base_path), tmp_path / "adapters" / done["adapter"], objective)
    record = json.loads((tmp_path / "adapters" / done["adapter"] / "run.json").read_text())
    assert record["objective"] == objective
    assert record["kept_step"] in (2, 4)
    assert str(tmp_path) not in json.dumps(record)
    if objective in ("dpo", "grpo"):
        asked = iter([False, False, True])
        broken = run_worker(spec, tmp_path / "broken", lambda: next(asked))
        assert broken[-1]["event"] == "cancelled"
        assert newest_complete(tmp_path / "broken") == tmp_path / "broken" / "checkpoints" / "checkpoint-2"
        resumed = run_worker(spec, tmp_path / "broken")[len(broken) :]
        assert [step["step"] for step in of(resumed, "step")] == [3, 4]
        assert resumed[-1]["event"] == "done", resumed[-1]
        if objective == "dpo":  # grpo samples anew
            assert resumed[-1]["loss"]["last"] == pytest.approx(done["loss"]["last"], abs=1e-5)
            assert resumed[-1]["eval_loss"] == pytest.approx(done["eval_loss"], abs=1e-5)


def _loads(base: Path, folder: Path, objective: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from playground.library.bases import BaseShapes
    from playground.library.safety import check_folder

    kind, named = (
        (AutoModelForSequenceClassification, {"num_labels": 1}) if objective == "reward" else (AutoModelForCausalLM, {})
    )
    PeftModel.from_pretrained(kind.from_pretrained(base, **named), folder)
    check_folder(folder, BaseShapes.from_folder(base))
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "run.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def material(spec: RunSpec, **changes: Any) -> TrainingData:
    spec = replace(spec, **changes)
    return prepare(spec, check_file(Path(spec.file)), load_tokenizer(Path(spec.base_path)))


def test_trl_sees_our_tokens(spec_of: Any, run_worker: Any, tmp_path: Path) -> None:
    """What the batches of TRL's trainers hold is prompt and answer as our renderer writes them, and nothing else."""
    from playground.methods import get_method
    from playground.training.objectives import Setup, get_objective
    from playground.training.trainer import arguments_of

    expected: dict[str, set[tuple[int, ...]]] = {}
    for objective in ("dpo", "orpo", "kto", "reward", "grpo"):
        spec = spec_of(objective, max_tokens=256)
        tokenizer = load_tokenizer(Path(spec.base_path))
        checked = check_file(Path(spec.file))
        for row in checked.usable:
            prompt = row.prompt if objective != "grpo" else row.messages[:-1]  # type: ignore[union-attr]
            text = render_prompt(tokenizer, [Message(turn.role, turn.content) for turn in prompt])
            said = [getattr(row, name) for name in ("chosen", "rejected", "completion") if hasattr(row, name)]
            ends = [""] if objective == "grpo" else [answer + tokenizer.eos_token for answer in said]
            expected.setdefault(objective, set()).update(
                tuple(encode(tokenizer, text) + encode(tokenizer, end)) for end in ends
            )
        made = material(spec, split={"validation": [], "test": []})
        own = get_objective(objective)
        setup = Setup(
            own.load(spec, get_method("lora")),
            tokenizer,
            made.train,
            (),
            spec,
            arguments_of(spec, len(made.train), tmp_path),
        )
        trainer = own.trainer(setup)
        seen: set[tuple[int, ...]] = set()
        for batch in trainer.get_train_dataloader():
            if objective == "grpo":
                seen |= {tuple(ids) for ids in trainer._tokenize_prompts([row["prompt"] for row in batch])[0]}  # type: ignore[attr-defined]
                continue
            for ids, mask in [
                (key, key.replace("input_ids", "attention_mask")) for key in batch if key.endswith("input_ids")
            ]:
                if ids.startswith(("prompt", "KL")):
                    continue
                seen |= {
                    tuple(row[kept.bool()].tolist())
                    for row, kept in zip(batch[ids].cpu(), batch[mask].cpu(), strict=True)
                }
        assert seen == expected[objective], objective


def test_a_long_prompt_loses_its_start_in_both_answers(spec_of: Any) -> None:
    long = [{"prompt": "word " * 200 + str(n), "chosen": "Yes, " * 9 + "gladly.", "rejected": "No."} for n in range(4)]
    for pair in material(spec_of("dpo", long), max_tokens=64).train:
        assert pair.chosen.prompt_ids == pair.rejected.prompt_ids  # type: ignore[union-attr]
        assert pair.chosen.tokens == 64 > pair.rejected.tokens  # type: ignore[union-attr]


def test_pairs_can_train_kto(spec_of: Any) -> None:
    made = material(spec_of("kto", PAIRS), split={"validation": [1], "test": []})
    assert (made.rows_used, len(made.train), len(made.validation)) == (15, 30, 2)
    assert sum(row.good for row in made.train) == 15  # type: ignore[union-attr]


def test_a_reward_model_rewards(spec_of: Any, run_worker: Any, tmp_path: Path) -> None:
    """grpo by a check and by the scores of a reward model that was trained here."""
    scorer = run_worker(spec_of("reward", steps=1), tmp_path / "scorer")[-1]["adapter"]
    files = {f"model={scorer}": str(tmp_path / "adapters" / scorer)}
    spec = spec_of("grpo", steps=1, rewards=["json", *files], reward_files=files)
    events = run_worker(spec, tmp_path / "run")
    assert events[-1]["event"] == "done", events[-1]
    figures = of(events, "step")[0]["figures"]
    assert 0 < figures[f"rewards/model={scorer}/mean"] < 1
    assert figures["reward"] == pytest.approx(
        (figures["rewards/json/mean"] + figures[f"rewards/model={scorer}/mean"]) / 2, abs=1e-3
    )


def test_it_stops_when_it_gets_no_better_keeps_the_best_and_others_begin_with_it(
    spec_of: Any, run_worker: Any, tmp_path: Path
) -> None:
    """What another run measures first is what this one kept; dpo compares with that adapter, not with the base."""
    spec = spec_of("sft", steps=30, save_steps=1, lr=0.5, early_stop=2)  # far too fast
    events = run_worker(spec, tmp_path / "run")
    done, evals = events[-1], {event["step"]: event["loss"] for event in of(events, "eval")}
    (stopped,) = of(events, "stopped")
    assert stopped["step"] == done["steps"] < 30
    assert "no better 2 times in a row" in done["stopped"]
    assert stopped["best_step"] == min(evals, key=lambda step: (evals[step], step))
    own = {step: loss for step, loss in evals.items() if step}
    assert done["kept_step"] == min(own, key=lambda step: (own[step], step))
    assert done["eval_loss"] == min(own.values())
    there = {folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()}
    assert there == {f"checkpoint-{done['kept_step']}", f"checkpoint-{done['steps']}"}, "the best and the newest"
    start = {"start": done["adapter"], "start_path": str(tmp_path / "adapters" / done["adapter"])}
    again = run_worker(spec_of("sft", steps=1, **start), tmp_path / "again")
    assert of(again, "eval")[0]["loss"] == pytest.approx(done["eval_loss"], abs=1e-4), "the best weights were published"
    dpo = run_worker(spec_of("dpo", steps=1, **start), tmp_path / "dpo")
    assert dpo[-1]["event"] == "done", dpo[-1]
    assert of(dpo, "eval")[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "no better and no worse than where it began"
    folder = tmp_path / "adapters" / dpo[-1]["adapter"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []


@pytest.mark.parametrize(
    ("objective", "rows"), [("dpo", ANSWERS), ("kto", ANSWERS), ("grpo", PAIRS), ("sft", PAIRS), ("reward", JUDGED)]
)
def test_another_kind_of_file_is_refused_in_words(spec_of: Any, objective: str, rows: list[dict[str, Any]]) -> None:
    kind = OBJECTIVES[objective][0].split("_")[0]
    with pytest.raises(RunFailedError, match=f"rows.jsonl holds .* rows; {objective} needs {kind}"):
        material(spec_of(objective, rows))
