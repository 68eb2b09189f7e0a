"""The engine against PEFT: base + 3 LoRA adapters (r = 8, all linear), 4 replies of 64 tokens, prefill included, greedy.

    python benchmarks/engine.py [--out benchmarks/results/engine.json]

All arms in one process, in turn, medians of ROUNDS. Correctness comes first: every arm's tokens must be the same but for
near-ties, which are counted. End-of-reply tokens are suppressed in every arm, so that all write 64 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if "MALLOC_TOP_PAD_" not in os.environ:  # the same allocator settings for all arms; they act on a process when it starts
    settings = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.data.example import Message
from playground.data.render import render_prompt
from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, Sampling
from playground.library.bases import resolve
from playground.settings import Settings

TOKENS = 64
ROUNDS = 3
NAMES = ("one", "two", "three")
QUESTIONS = (
    "What is the capital of France?",
    "Male, 54, chest tightness since this morning, BP 150/95, pulse 102, temperature 36.8, smoker.",
    "My kettle, order C-12345, is broken and I want my money back.",
    "Write one sentence about rain.",
)


def make_adapters(base: Path, folder: Path) -> dict[str, Path]:
    """Three LoRA adapters with random, small B: real work, other words."""
    made = {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.01)
        model.save_pretrained(folder / name)
        made[name] = folder / name
    return made


def median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = resolve("smollm2-135m", Settings.from_env())
    folder = Path(tempfile.mkdtemp())
    paths = make_adapters(base.path, folder)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    prompts = [render_prompt(tokenizer, [Message("user", question)]) for question in QUESTIONS]
    ids = [tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"] for prompt in prompts]
    picks = [None, *NAMES]

    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    peft: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), paths["one"], adapter_name="one"
    )
    attach_peft = []
    for name in NAMES[1:]:
        started = time.perf_counter()
        peft.load_adapter(paths[name], adapter_name=name)
        attach_peft.append(time.perf_counter() - started)
    engine = Engine(base.path)
    attach = [engine.attach(AdapterFile(name, path, name)) for name, path in paths.items()]
    stops, engine._scheduler._stops = engine._scheduler._stops, set()  # type: ignore[union-attr]
    fixed = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 2}
    mask_out = list(stops)

    def suppress(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[mask_out] = -1e9
        return logits

    from playground.engine import sampling

    drawn = sampling.Sampler.pick
    sampling.Sampler.pick = lambda self, logits: drawn(self, suppress(logits))  # type: ignore[method-assign]

    def one_by_one() -> list[list[int]]:
        out = []
        for name, row in zip(picks, ids, strict=True):
            if name is None:
                with peft.disable_adapter():
                    got = peft.generate(input_ids=row, attention_mask=torch.ones_like(row), **fixed)
            else:
                peft.set_adapter(name)
                got = peft.generate(input_ids=row, attention_mask=torch.ones_like(row), **fixed)
            out.append(got[0, row.shape[1] :].tolist())
        return out

    longest = max(row.shape[1] for row in ids)
    padded = torch.full((len(ids), longest), 2)
    seen = torch.zeros_like(padded)
    for place, row in enumerate(ids):
        padded[place, longest - row.shape[1] :] = row[0]
        seen[place, longest - row.shape[1] :] = 1

    def mixed() -> list[list[int]]:
        names = ["__base__" if name is None else name for name in picks]
        got = peft.generate(input_ids=padded, attention_mask=seen, adapter_names=names, **fixed)
        return [row[longest:].tolist() for row in got]

    def ours(adapters: list[str | None] = picks) -> list[list[int]]:
        engine._scheduler._prefixes.clear()  # type: ignore[union-attr]
        rows = [Row(prompt, name, Sampling(max_tokens=TOKENS)) for prompt, name in zip(prompts, adapters, strict=False)]
        states = []
        for states in engine.stream(rows):
            pass
        return [tokenizer(state.text, add_special_tokens=False)["input_ids"] for state in states]

    def single_generate() -> list[list[int]]:
        return [plain.generate(input_ids=ids[3], attention_mask=torch.ones_like(ids[3]), **fixed)[0, ids[3].shape[1] :].tolist()]

    def single_ours() -> list[list[int]]:
        engine._scheduler._prefixes.clear()  # type: ignore[union-attr]
        states = []
        for states in engine.stream([Row(prompts[3], None, Sampling(max_tokens=TOKENS))]):
            pass
        return [[states[0].completion_tokens]]

    # correctness first
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in one_by_one()]
    states = []
    for states in engine.stream(
        [Row(prompt, name, Sampling(max_tokens=TOKENS)) for prompt, name in zip(prompts, picks, strict=True)]
    ):
        pass
    same = [text == state.text for text, state in zip(texts, states, strict=True)]
    first = [
        next((i for i, (a, b) in enumerate(zip(t, s.text, strict=False)) if a != b), None)
        for t, s in zip(texts, states, strict=True)
    ]
    assert sum(same) >= 3, (texts, [state.text for state in states])
    assert len({state.text for state in states}) == 4

    arms = {
        "peft_one_by_one": (one_by_one, 4 * TOKENS), "peft_mixed_batch": (mixed, 4 * TOKENS), "ours": (ours, 4 * TOKENS),
        "ours_base_only": (lambda: ours([None] * 4), 4 * TOKENS), "generate_one_row": (single_generate, TOKENS), "ours_one_row": (single_ours, TOKENS),
    }  # fmt: skip
    for run, _ in arms.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, (run, _) in arms.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    speed = {name: count / median(times[name]) for name, (_, count) in arms.items()}

    switch_peft = []
    for turn in range(60):
        started = time.perf_counter()
        peft.set_adapter(NAMES[turn % 3])
        switch_peft.append((time.perf_counter() - started) * 1000)
    engine.select_ms("one")
    switch = sorted(engine.select_ms(NAMES[turn % 3]) for turn in range(200))
    for turn in range(6):
        name = f"again{turn}"
        attach.append(engine.attach(AdapterFile(name, paths[NAMES[turn % 3]], name)))
        engine.detach(name)

    def steps(count: int) -> float:
        started = time.perf_counter()
        ours()
        return (time.perf_counter() - started) / count

    few, many = [], []
    for _ in range(ROUNDS):
        few.append(steps(TOKENS))
        for turn in range(32 - len(NAMES)):
            engine.attach(AdapterFile(f"more{turn}", paths[NAMES[turn % 3]], f"more{turn}"))
        many.append(steps(TOKENS))
        for turn in range(32 - len(NAMES)):
            engine.detach(f"more{turn}")

    figures = {
        "tokens_per_s": {name: round(value, 1) for name, value in speed.items()},
        "against_peft_one_by_one": round(speed["ours"] / speed["peft_one_by_one"], 2),
        "against_peft_mixed_batch": round(speed["ours"] / speed["peft_mixed_batch"], 2),
        "adapters_against_base_only": round(speed["ours"] / speed["ours_base_only"], 3),
        "one_row_against_generate": round(speed["ours_one_row"] / speed["generate_one_row"], 2),
        "switch_ms": {"ours_median": round(median(switch), 3), "ours_p95": round(switch[int(0.95 * len(switch))], 3), "peft_median": round(median(switch_peft), 2)},
        "attach_ms": {"ours_median": round(median(attach), 1), "peft_median": round(median(attach_peft) * 1000, 1)},
        "step_from_3_to_32_adapters": round(median(many) / median(few), 3),
        "same_text_as_peft": same,
        "first_difference_at_character": first,
        "base_unchanged": engine.check_fingerprint()[1],
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if options.out:
        command = " ".join(["python", "benchmarks/engine.py", *sys.argv[1:]])
        device = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
        options.out.write_text(json.dumps({"command": command, "device": device, "rounds": ROUNDS} | figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
