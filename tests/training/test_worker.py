"""The worker for real, on the tiny model: every method, a resume that equals the uninterrupted run, the failures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import InputError
from playground.training.checkpoint import newest_complete
from playground.training.spec import RunSpec


@pytest.mark.parametrize(("method", "rank"), [("lora", 4), ("full", 0)])
def test_a_run_publishes_what_transformers_and_peft_load_and_a_resumed_one_ends_as_it_did_and_takes_no_step_twice(
    spec: RunSpec, run_worker: Any, tmp_path: Path, method: str, rank: int
) -> None:
    """24 rows make 6 batches an epoch: 4 steps end in the middle of one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = replace(spec, method=method, rank=rank)
    events = run_worker(spec, tmp_path / "run")
    done = events[-1]
    assert done["event"] == "done", done
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]
    assert {event["step"] for event in events if event["event"] == "eval"} == {0, 2, 4}
    assert {event["step"] for event in events if event["event"] == "sample"} == {0, 2, 4}
    assert done["rows_used"] + next(e for e in events if e["event"] == "plan")["rows_held_back"] == 24
    assert done["loss"]["last"] < done["loss"]["first"]
    assert done["trainable_params"] < done["total_params"] or method == "full"
    folder = tmp_path / "adapters" / done["adapter"]
    record = json.loads((folder / "run.json").read_text())
    assert record["data"] == "rows.jsonl"
    assert [step for step, _ in record["curve"]["held_out"]] == [0, 2, 4]
    assert "## How it went" in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "run.json").read_text() + (folder / "README.md").read_text()
    if method == "full":
        AutoModelForCausalLM.from_pretrained(folder)
    else:
        assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spec.base_path), folder)
        broken, asked = tmp_path / "broken", iter([False, False, True])
        assert run_worker(spec, broken, lambda: next(asked))[-1]["event"] == "cancelled"
        assert newest_complete(broken) == broken / "checkpoints" / "checkpoint-2"
        resumed = run_worker(spec, broken)
        again = [event["event"] for event in resumed].index("cancelled") + 1
        assert [event["step"] for event in resumed[again:] if event["event"] == "step"] == [3, 4]
        assert [event["step"] for event in resumed if event["event"] == "started"] == [0, 2]
        ended = run_worker(spec, broken)  # only its end was missing
        assert [event["event"] for event in ended].count("step") == [event["event"] for event in resumed].count("step")
        for other in (resumed[-1], ended[-1]):
            assert other["loss"] == pytest.approx(done["loss"], abs=1e-6)
            assert other["eval_loss"] == pytest.approx(done["eval_loss"], abs=1e-6)


def test_qlora_keeps_its_gradient_after_an_evaluation(tiny_base: Path) -> None:
    """bitsandbytes repacks for AVX512-BF16 processors in the first evaluation; the repacked product has no gradient."""
    from playground.methods import get_method
    from playground.training.model import load_for_training

    model = load_for_training(tiny_base, get_method("qlora"), 4, 0)
    quantised = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert quantised
    assert not any(module.support_avx512bf16_for_cpu for module in quantised)


def test_the_loss_of_a_step_is_the_mean_over_its_answers(spec: RunSpec, run_worker: Any, tmp_path: Path) -> None:
    """One batch holds every row that is trained on, so its loss is that of the untouched model over all of them."""
    from transformers import AutoModelForCausalLM

    from playground.data.check import check_file
    from playground.data.render import load_tokenizer, render_example
    from playground.data.split import part, split
    from playground.training.objectives import AnswerCollator, mean_loss

    events = run_worker(replace(spec, steps=1, batch_size=64), tmp_path / "run")
    tokenizer = load_tokenizer(Path(spec.base_path))
    every = check_file(Path(spec.file)).examples
    examples = part(every, split(every, spec.seed, test=0).train)
    rows = [render_example(tokenizer, example, spec.max_tokens) for example in examples]
    model = AutoModelForCausalLM.from_pretrained(spec.base_path)
    expected = mean_loss(model, rows, 64, AnswerCollator(tokenizer.pad_token_id))
    (step,) = [event for event in events if event["event"] == "step"]
    assert step["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "gone.jsonl"}, "gone.jsonl"),
        ({"max_tokens": 16}, "fits 16 tokens"),
        ({"objective": "pretrain"}, "holds sft rows; pretrain needs text rows"),
    ],
)
def test_a_failure_is_one_sentence(
    spec_in: Any, run_worker: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    long = [{"prompt": f"Say {n}", "completion": "word " * 40 + str(n)} for n in range(12)]
    last = run_worker(replace(spec_in(tmp_path, long), **changes), tmp_path / "run")[-1]
    assert last["event"] == "failed"
    assert words in last["message"]
    assert "Traceback" not in last["message"]


def test_a_loss_that_is_no_number_fails_and_publishes_nothing(
    spec: RunSpec, run_worker: Any, tmp_path: Path, tiny_base: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = tmp_path / "broken-base"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(broken)
    events = run_worker(replace(spec, base_path=str(broken)), tmp_path / "run")
    assert events[-1]["event"] == "failed"
    assert "smaller learning rate" in events[-1]["message"]
    assert not list((tmp_path / "adapters").glob("[a-z]*"))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0}, {"lr": 2}, {"batch_size": 0}, {"rank": 300}, {"objective": "grpo"}]
)
def test_a_spec_is_checked_when_built(spec: RunSpec, wrong: dict) -> None:
    with pytest.raises(InputError):
        replace(spec, **wrong)


def test_raw_text_is_learned_in_packed_rows(spec_in: Any, run_worker: Any, tmp_path: Path) -> None:
    texts = [{"text": f"Ward {n} reports that all is well today, and signs it. " * 6} for n in range(24)]
    spec = spec_in(tmp_path, texts, objective="pretrain", max_tokens=64, steps=6, save_steps=6)
    events = run_worker(spec, tmp_path / "run")
    done = events[-1]
    assert done["event"] == "done", done
    assert done["loss"]["last"] < done["loss"]["first"] - 0.3
    assert done["rows_used"] == 22
    assert [event["text"] for event in events if event["event"] == "sample"], "it shows how a text goes on"


def test_what_is_held_back_or_left_out_is_not_trained_on(spec: RunSpec, run_worker: Any, tmp_path: Path) -> None:
    from playground.data.check import check_file
    from playground.data.split import row_hash

    parts = {"seed": 3, "train": 17, "validation": [2, 5], "test": [7, 8, 9]}
    events = run_worker(replace(spec, split=parts, left_out=[1, 24]), tmp_path / "run")
    plan = next(event for event in events if event["event"] == "plan")
    assert (plan["rows_used"], plan["rows_held_back"], plan["rows_bad"]) == (17, 5, 0)
    record = json.loads((tmp_path / "adapters" / events[-1]["adapter"] / "run.json").read_text())
    assert record["split"] == parts
    every = {row_hash(row): row.row for row in check_file(Path(spec.file)).examples}
    assert sorted(every[one] for one in record["row_hashes"]) == sorted({*range(1, 25)} - {1, 24, 2, 5, 7, 8, 9})


@pytest.mark.parametrize(("turns", "learned"), [("all", 4), ("last", 2)])
def test_every_answer_of_a_chat_is_learned_or_the_last_alone(
    spec_in: Any, run_worker: Any, tmp_path: Path, turns: str, learned: int
) -> None:
    from playground.data.check import check_file
    from playground.data.render import load_tokenizer
    from playground.training.trainer import prepare

    contents = ("Hello", "Yes", "And now", "No")
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    spec = spec_in(tmp_path, [{"messages": messages}] * 4, turns=turns)
    made = prepare(spec, check_file(Path(spec.file)), load_tokenizer(Path(spec.base_path)))
    assert [row.learned for row in made.train] == [learned] * 4, "each answer is a word and its end"  # type: ignore[union-attr]
    assert run_worker(spec, tmp_path / "run")[-1]["event"] == "done"
