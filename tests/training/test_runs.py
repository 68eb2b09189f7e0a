"""Runs for real on the tiny model: every objective and kind of method learns, goes on, and is refused in words."""

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from playground.data.check import check_file
from playground.data.example import Message
from playground.data.render import encode, load_tokenizer, render_example, render_prompt
from playground.data.split import part, row_hash, split
from playground.errors import RunFailedError
from playground.library.bases import BaseShapes
from playground.library.safety import check_folder
from playground.methods import get_method
from playground.training.model import load_for_training
from playground.training.objectives import AnswerCollator, Setup, get_objective, mean_loss
from playground.training.run_files import STATE, newest_complete
from playground.training.spec import OBJECTIVES
from playground.training.trainer import arguments_of, prepare
from tests.refused import refused
from tests.training.conftest import PLAIN

FIGURE = {"dpo": "rewards/accuracies", "orpo": "rewards/accuracies", "reward": "accuracy", "grpo": "reward"}
NUMBERS = [f"Say number {n}" for n in range(24)]
RUNS = {
    "lora": {},
    "pissa": {"options": {"pissa": True}},
    "qlora": {"method": "qlora"},
    "prefix": {"method": "prefix"},
    "full": {"method": "full", "rank": 0},
    "last-layer": {"method": "full", "rank": 0, "options": {"layers": 1}},
    **{objective: {"objective": objective} for objective in ("dpo", "orpo", "kto", "reward", "grpo")},
    "prompts": {"objective": "grpo", "rows": [{"prompt": text} for text in NUMBERS]},
}
ANSWERS = [{"prompt": text, "completion": f"Number {n}, gladly."} for n, text in enumerate(NUMBERS)]
PAIRS = [{"prompt": text, "chosen": f"Number {n}, gladly.", "rejected": f"No {n}."} for n, text in enumerate(NUMBERS)]
JUDGED = [
    {"prompt": text, "completion": f"Number {n}, gladly." if n % 2 else f"No {n}.", "label": bool(n % 2)}
    for n, text in enumerate(NUMBERS)
]
ROWS = {"dpo": PAIRS, "orpo": PAIRS, "reward": PAIRS, "kto": JUDGED}
spec_of = pytest.fixture(lambda spec_at, tmp_path: partial(spec_at, tmp_path))


@pytest.fixture(scope="session")
def spec_at(spec_in):
    """(folder, objective, rows, changes) -> a run's spec."""

    def made(folder, objective="sft", rows=None, **changes):
        grpo = {"rewards": ["contains:the", "max-words:20"], "max_tokens": 64} if objective == "grpo" else {}
        own = {"objective": objective, "max_tokens": 128} | grpo | changes
        return spec_in(folder, rows or ROWS.get(objective, ANSWERS), **own)

    return made


@pytest.fixture(scope="module")
def whole(spec_at, run_worker, tmp_path_factory):
    """(name) -> the folder of that run, which ran once to its end, its spec and its events."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        spec = spec_at(folder, **RUNS[name])
        return folder, spec, run_worker(spec, folder / "run")

    return made


@pytest.fixture
def train(spec_of, run_worker, tmp_path):
    def made(*asked, folder="run", **changes):
        return run_worker(spec_of(*asked, **changes), tmp_path / folder)

    return made


def of(events, kind):
    return [event for event in events if event["event"] == kind]


def material(spec, **changes):
    spec = replace(spec, **changes)
    return prepare(spec, check_file(Path(spec.file)), load_tokenizer(Path(spec.base_path)))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_and_says_so_and_publishes_what_transformers_and_peft_load(whole, name):
    """24 rows make 6 batches an epoch: 4 steps end in the middle of one."""
    made, spec, events = whole(name)
    objective, method = spec.objective, get_method(spec.method)
    done, steps, evals, samples = events[-1], of(events, "step"), of(events, "eval"), of(events, "sample")
    assert done["event"] == "done", done
    assert ([step["step"] for step in steps], [event["step"] for event in evals]) == ([1, 2, 3, 4], [0, 2, 4])
    assert [event["step"] for event in of(events, "saved")] == [2, 4]
    assert sorted({event["step"] for event in samples}) == [0, 2, 4]
    assert {event["prompt"] for event in samples} <= set(NUMBERS)
    assert done["rows_used"] + of(events, "plan")[0]["rows_held_back"] == 24
    assert (done["trainable_params"] < done["total_params"]) is (name != "full")
    for step in steps:
        assert {"loss", "lr", "grad_norm", "tokens_per_s", "seconds_left", "memory_bytes"} <= step.keys()
        assert objective not in FIGURE or FIGURE[objective] in step["figures"]
    if objective == "sft":
        assert done["loss"]["last"] < done["loss"]["first"]
    elif objective != "grpo":  # a random model's replies are noise
        assert min(event["loss"] for event in evals) < evals[0]["loss"]
    if objective in ("dpo", "reward"):
        assert steps[-1]["figures"][FIGURE[objective]] >= 0.75
        assert evals[-1]["figures"][FIGURE[objective]] == 1.0
    if objective == "grpo":
        assert 0 <= steps[0]["figures"]["reward"] <= 1
        assert {f"rewards/{name}/mean" for name in spec.rewards} <= steps[0]["figures"].keys()
    folder = made / "adapters" / done["adapter"]
    record = json.loads((folder / "run.json").read_text())
    own = {"objective": objective, "method": spec.method, "options": spec.options, "data": "rows.jsonl"}
    assert record | own | {"kind": "full" if method.whole else "peft"} == record
    assert [step for step, _ in record["curve"]["held_out"]] == [0, 2, 4]
    assert record["kept_step"] in (2, 4)
    assert "## How it went" in (folder / "README.md").read_text()
    assert all(str(made) not in file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".md"))
    there, ours = {file.name for file in folder.iterdir()}, {"README.md", "run.json"}
    if method.whole:
        assert there >= ours | {"model.safetensors", "config.json", "tokenizer.json"}
        AutoModelForCausalLM.from_pretrained(folder)
        return
    assert there == ours | {"adapter_config.json", "adapter_model.safetensors"}
    kind = AutoModelForSequenceClassification if objective == "reward" else AutoModelForCausalLM
    model = kind.from_pretrained(spec.base_path, **({"num_labels": 1} if objective == "reward" else {}))
    PeftModel.from_pretrained(model, folder)
    check_folder(folder, BaseShapes.from_folder(Path(spec.base_path)))


@pytest.mark.parametrize("name", ["pissa", "prefix", "dpo", "grpo"])
def test_a_resumed_run_ends_as_the_uninterrupted_one_and_takes_no_step_twice(whole, run_worker, tmp_path, name):
    """A prefix's file holds what its network makes; what goes on is the network."""
    _, spec, uninterrupted = whole(name)
    run_dir, asked = tmp_path / "broken", iter([False, False, True])
    spec = replace(spec, adapters_dir=str(tmp_path / "adapters"))
    broken = run_worker(spec, run_dir, lambda: next(asked))
    assert broken[-1]["event"] == "cancelled"
    checkpoint = newest_complete(run_dir)
    assert checkpoint == run_dir / "checkpoints" / "checkpoint-2"
    assert (checkpoint / STATE).exists() == (name == "prefix")
    base = AutoModelForCausalLM.from_pretrained(spec.base_path).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        assert (PeftModel.from_pretrained(base, checkpoint).eval()(ids).logits[:, -4:] - plain).abs().max() > 1e-3
    resumed = run_worker(spec, run_dir)
    assert [step["step"] for step in of(resumed[len(broken) :], "step")] == [3, 4]
    assert [event["step"] for event in of(resumed, "started")] == [0, 2]
    assert resumed[-1]["event"] == "done", resumed[-1]
    ended = run_worker(spec, run_dir)  # only its end was missing
    assert len(of(ended, "step")) == len(of(resumed, "step"))
    if name != "grpo":  # which samples anew
        for other in (resumed[-1], ended[-1]):
            for figure in ("loss", "eval_loss"):
                assert other[figure] == pytest.approx(uninterrupted[-1][figure], abs=1e-5)


def test_trl_sees_our_tokens(spec_of, tmp_path):
    """What the batches of TRL's trainers hold is prompt and answer as our renderer writes them, and nothing else."""
    for objective in ("dpo", "orpo", "kto", "reward", "grpo"):
        spec = spec_of(objective, max_tokens=256)
        tokenizer, expected = load_tokenizer(Path(spec.base_path)), set()
        for row in check_file(Path(spec.file)).usable:
            prompt = row.prompt if objective != "grpo" else row.messages[:-1]
            text = render_prompt(tokenizer, [Message(turn.role, turn.content) for turn in prompt])
            said = [getattr(row, name) for name in ("chosen", "rejected", "completion") if hasattr(row, name)]
            ends = [""] if objective == "grpo" else [answer + tokenizer.eos_token for answer in said]
            expected |= {tuple(encode(tokenizer, text) + encode(tokenizer, end)) for end in ends}
        made = material(spec, split={"validation": [], "test": []})
        own = get_objective(objective)
        model = own.load(spec, get_method("lora"))
        arguments = arguments_of(spec, len(made.train), tmp_path)
        trainer = own.trainer(Setup(model, tokenizer, made.train, (), spec, arguments))
        seen = set()
        for batch in trainer.get_train_dataloader():
            if objective == "grpo":
                seen |= {tuple(ids) for ids in trainer._tokenize_prompts([row["prompt"] for row in batch])[0]}
                continue
            for ids in (key for key in batch if key.endswith("input_ids") and not key.startswith(("prompt", "KL"))):
                masked = zip(batch[ids].cpu(), batch[ids.replace("input_ids", "attention_mask")].cpu(), strict=True)
                seen |= {tuple(row[kept.bool()].tolist()) for row, kept in masked}
        assert seen == expected, objective


def test_a_long_prompt_loses_its_start_in_both_answers_and_pairs_can_train_kto(spec_of):
    long = [{"prompt": "word " * 200 + str(n), "chosen": "Yes, " * 9 + "gladly.", "rejected": "No."} for n in range(4)]
    for pair in material(spec_of("dpo", long), max_tokens=64).train:
        assert pair.chosen.prompt_ids == pair.rejected.prompt_ids
        assert pair.chosen.tokens == 64 > pair.rejected.tokens
    made = material(spec_of("kto", PAIRS), split={"validation": [1], "test": []})
    assert (made.rows_used, len(made.train), len(made.validation)) == (23, 46, 2)
    assert sum(row.good for row in made.train) == 23


def test_a_reward_model_rewards(whole, train):
    """grpo by a check and by the scores of a reward model that was trained here."""
    folder, _, scoring = whole("reward")
    scorer = scoring[-1]["adapter"]
    files = {f"model={scorer}": str(folder / "adapters" / scorer)}
    events = train("grpo", steps=1, rewards=["json", *files], reward_files=files)
    assert events[-1]["event"] == "done", events[-1]
    figures = of(events, "step")[0]["figures"]
    by_model, by_check = (figures[f"rewards/{name}/mean"] for name in (f"model={scorer}", "json"))
    assert 0 < by_model < 1
    assert figures["reward"] == pytest.approx((by_check + by_model) / 2, abs=1e-3)


def test_it_stops_when_it_gets_no_better_keeps_the_best_and_others_begin_with_it(train, tmp_path):
    """What another run measures first is what this one kept; dpo compares with that adapter, not with the base."""
    events = train(steps=30, save_steps=1, lr=0.5, early_stop=2)  # far too fast
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
    again = train(steps=1, **start, folder="again")
    assert of(again, "eval")[0]["loss"] == pytest.approx(done["eval_loss"], abs=1e-4), "the best weights were published"
    dpo = train("dpo", steps=1, **start, folder="dpo")
    assert dpo[-1]["event"] == "done", dpo[-1]
    assert of(dpo, "eval")[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "no better and no worse than where it began"
    assert [path for path in (tmp_path / "adapters" / dpo[-1]["adapter"]).iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("objective", "rows"),
    [("dpo", ANSWERS), ("kto", ANSWERS), ("grpo", PAIRS), ("sft", PAIRS), ("pretrain", ANSWERS), ("reward", JUDGED)],
)
def test_another_kind_of_file_is_refused_in_words(spec_of, objective, rows):
    kind = OBJECTIVES[objective][0].split("_")[0]
    with pytest.raises(RunFailedError, match=f"rows.jsonl holds .* rows; {objective} needs {kind}"):
        material(spec_of(objective, rows))


def test_qlora_keeps_its_gradient_after_an_evaluation(tiny_base):
    """bitsandbytes repacks for AVX512-BF16 processors in the first evaluation; the repacked product has no gradient."""
    model = load_for_training(tiny_base, get_method("qlora"), 4, 0)
    quantised = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert quantised
    assert not any(module.support_avx512bf16_for_cpu for module in quantised)


def test_the_loss_of_a_step_is_the_mean_over_its_answers(spec, run_worker, tmp_path):
    """One batch holds every row that is trained on, so its loss is that of the untouched model over all of them."""
    (step,) = of(run_worker(replace(spec, steps=1, batch_size=64), tmp_path / "run"), "step")
    tokenizer, every = load_tokenizer(Path(spec.base_path)), check_file(Path(spec.file)).examples
    examples = part(every, split(every, spec.seed, test=0).train)
    rows = [render_example(tokenizer, example, spec.max_tokens) for example in examples]
    model = AutoModelForCausalLM.from_pretrained(spec.base_path)
    expected = mean_loss(model, rows, 64, AnswerCollator(tokenizer.pad_token_id))
    assert step["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("changes", [{}, {"method": "prefix"}, {"objective": "dpo"}, {"objective": "pretrain"}])
def test_a_step_in_parts_learns_what_a_whole_one_does(train, changes):
    """On packed sequences, on padded rows of like length, by TRL, and on raw text."""
    texts = [{"text": f"Ward {n} reports that all is well today, and signs it. " * 6} for n in range(24)]
    rows = {"rows": texts, "max_tokens": 64} if changes.get("objective") == "pretrain" else {}
    losses = [
        [step["loss"] for step in of(train(steps=6, accumulate=parts, folder=f"{parts}", **changes, **rows), "step")]
        for parts in (1, 4)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    assert len({round(loss, 3) for loss in losses[0]}) > 3, "something is learned"


@pytest.mark.parametrize(("changes", "words"), [({"file": "gone"}, "gone"), ({"max_tokens": 16}, "fits 16 tokens")])
def test_a_failure_is_one_sentence(spec_of, run_worker, tmp_path, changes, words):
    long = [{"prompt": f"Say {n}", "completion": "word " * 40 + str(n)} for n in range(12)]
    last = run_worker(replace(spec_of("sft", long), **changes), tmp_path / "run")[-1]
    assert last["event"] == "failed"
    assert words in last["message"]
    assert "Traceback" not in last["message"]


def test_a_loss_that_is_no_number_fails_and_publishes_nothing(train, tmp_path, tiny_base):
    broken = tmp_path / "broken-base"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(broken)
    last = train(base_path=str(broken))[-1]
    assert last["event"] == "failed"
    assert "smaller learning rate" in last["message"]
    assert not list((tmp_path / "adapters").glob("[a-z]*"))


def test_a_spec_is_checked_when_built():
    wrong = (("steps", 0), ("lr", 0), ("lr", 2), ("batch_size", 0), ("rank", 300), ("objective", "grpo"))
    for name, value in (*wrong, ("accumulate", 3)):
        refused("", replace, PLAIN, **{name: value})


def test_raw_text_is_learned_in_packed_rows(train):
    texts = [{"text": f"Ward {n} reports that all is well today, and signs it. " * 6} for n in range(24)]
    events = train("pretrain", texts, max_tokens=64, steps=6, save_steps=6)
    done = events[-1]
    assert done["event"] == "done", done
    assert done["loss"]["last"] < done["loss"]["first"] - 0.3
    assert done["rows_used"] == 22
    assert [event["text"] for event in of(events, "sample")], "it shows how a text goes on"


def test_what_is_held_back_or_left_out_is_not_trained_on(spec, run_worker, tmp_path):
    parts = {"seed": 3, "train": 17, "validation": [2, 5], "test": [7, 8, 9]}
    events = run_worker(replace(spec, split=parts, left_out=[1, 24]), tmp_path / "run")
    (plan,) = of(events, "plan")
    assert (plan["rows_used"], plan["rows_held_back"], plan["rows_bad"]) == (17, 5, 0)
    record = json.loads((tmp_path / "adapters" / events[-1]["adapter"] / "run.json").read_text())
    assert record["split"] == parts
    every = {row_hash(row): row.row for row in check_file(Path(spec.file)).examples}
    assert sorted(every[one] for one in record["row_hashes"]) == sorted({*range(1, 25)} - {1, 24, 2, 5, 7, 8, 9})
    assert len(record["prompt_hashes"]) == 17
    assert record["rows_known"] is True


@pytest.mark.parametrize(("turns", "learned"), [("all", 4), ("last", 2)])
def test_every_answer_of_a_chat_is_learned_or_the_last_alone(spec_of, turns, learned):
    contents = ("Hello", "This", "And now", "It")
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    made = material(spec_of("sft", [{"messages": messages}] * 4, turns=turns))
    assert [row.learned for row in made.train] == [learned] * 4, "each answer is a word and its end"
