"""The arms of ``engine.py`` that are not the app, one a process: ``engine_arms.py ARM BASE ADAPTERS``. Runs once for
each line on stdin, over the four conversations that it holds."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.data.example import Message
from playground.data.render import render_prompt

TOKENS = 64
NAMES = ("one", "two", "three")
PICKS = (None, *NAMES)
FIXED = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 2}
Work = Callable[[list[str]], dict[str, Any]]
"""Prompts, rendered -> what was found."""


class Peft:
    """PEFT's ways: one adapter after another, and a mixed batch."""

    def __init__(self, base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        from peft import PeftModel

        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.model: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=dtype), folder / "one", adapter_name="one"
        )
        self.attach_ms = []
        for name in NAMES[1:]:
            started = time.perf_counter()
            self.model.load_adapter(folder / name, adapter_name=name)
            self.attach_ms.append((time.perf_counter() - started) * 1000)

    def one_by_one(self, prompts: list[str]) -> list[str]:
        out = []
        for name, row in zip(PICKS, encoded(self.tokenizer, prompts), strict=True):
            given = {"input_ids": row, "attention_mask": torch.ones_like(row)} | FIXED
            if name is None:
                with self.model.disable_adapter():
                    got = self.model.generate(**given)
            else:
                self.model.set_adapter(name)
                got = self.model.generate(**given)
            out.append(self.tokenizer.decode(got[0, row.shape[1] :], skip_special_tokens=True))
        return out

    def mixed(self, prompts: list[str]) -> list[str]:
        ids, seen = padded(encoded(self.tokenizer, prompts))
        names = ["__base__" if name is None else name for name in PICKS]
        got = self.model.generate(input_ids=ids, attention_mask=seen, adapter_names=names, **FIXED)
        return [self.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in got]

    def switch_ms(self) -> float:
        taken = []
        for turn in range(60):
            started = time.perf_counter()
            self.model.set_adapter(NAMES[turn % 3])
            taken.append((time.perf_counter() - started) * 1000)
        return statistics.median(taken)


def encoded(tokenizer: Any, prompts: list[str]) -> list[torch.Tensor]:
    return [tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"] for prompt in prompts]


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one batch, padded on the left, and its mask."""
    longest = max(row.shape[1] for row in rows)
    ids = torch.full((len(rows), longest), 2)
    seen = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, longest - row.shape[1] :] = row[0]
        seen[place, longest - row.shape[1] :] = 1
    return ids, seen


class Ours:
    """The engine alone; kept beginnings are dropped before each run."""

    def __init__(self, base: Path, folder: Path) -> None:
        from playground.engine.engine import Engine
        from playground.engine.request import AdapterFile

        self._file = AdapterFile
        self.engine, self.folder = Engine(base), folder
        self.attach_ms = [self.attach(name, name) for name in NAMES]

    def attach(self, name: str, source: str) -> float:
        return self.engine.attach(self._file(name, self.folder / source, name))

    def run(self, prompts: list[str]) -> None:
        from playground.engine.request import Row, Sampling

        self.engine.clear_prefix_cache()
        sampling = Sampling(max_tokens=TOKENS, min_tokens=TOKENS)
        for _ in self.engine.stream([Row(p, name, sampling) for p, name in zip(prompts, PICKS, strict=True)]):
            pass


def build(arm: str, base: Path, folder: Path) -> Work:
    """What one line on stdin runs. ``_bf16`` at an arm's end: the base in bf16, as its library has it then."""
    dtype = torch.bfloat16 if arm.endswith("_bf16") else torch.float32
    arm = arm.removesuffix("_bf16")
    if arm.startswith("peft"):
        peft = Peft(base, folder, dtype)
        return timed(peft.one_by_one if arm == "peft_one_by_one" else peft.mixed)
    if arm.startswith("generate"):
        tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)

        def generate(prompts: list[str]) -> list[str]:
            ids, seen = padded(encoded(tokenizer, prompts[:1] if arm == "generate_one_row" else prompts))
            got = model.generate(input_ids=ids, attention_mask=seen, **FIXED)
            return [tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in got]

        return timed(generate)
    if arm == "attaching":
        return attaching(Ours(base, folder), Peft(base, folder))
    if arm == "switching":
        return switching(Ours(base, folder), Peft(base, folder))
    return many(Ours(base, folder))


def timed(work: Callable[[list[str]], list[str]]) -> Work:
    def run(prompts: list[str]) -> dict[str, Any]:
        started = time.perf_counter()
        texts = work(prompts)
        return {"seconds": time.perf_counter() - started, "texts": texts}

    return run


def switching(ours: Ours, peft: Peft) -> Work:
    """Among the three adapters in use, and among 32 of which a batch's slots hold few."""

    def run(prompts: list[str]) -> dict[str, Any]:
        for name in NAMES:
            ours.engine.select_ms(name)
        few = sorted(ours.engine.select_ms(NAMES[turn % 3]) for turn in range(300))
        for turn in range(29):
            ours.attach(f"more{turn}", NAMES[turn % 3])
        names = sorted(ours.engine.attached())
        many = sorted(ours.engine.select_ms(names[turn % len(names)]) for turn in range(320))
        figures = {"median": few[150], "p95": few[285], "of_32_median": many[160], "of_32_p95": many[304]}
        return {
            "switch_ms": {key: round(value, 4) for key, value in figures.items()}
            | {"peft_median": round(peft.switch_ms(), 2)}
        }

    return run


def attaching(ours: Ours, peft: Peft) -> Work:
    def run(prompts: list[str]) -> dict[str, Any]:
        taken = []
        for turn in range(12):
            taken.append(ours.attach(f"again{turn}", NAMES[turn % 3]))
            ours.engine.detach(f"again{turn}")
        found = {
            "median": statistics.median(taken),
            "worst": max(taken),
            "peft_median": statistics.median(peft.attach_ms),
        }
        return {"attach_ms": {key: round(value, 1) for key, value in found.items()}}

    return run


def many(ours: Ours) -> Work:
    """The same batch with 3 and with 32 adapters attached, in turn; and the base's fingerprint after all of it."""

    def run(prompts: list[str]) -> dict[str, Any]:
        few, full = [], []
        ours.run(prompts)
        for _ in range(5):
            started = time.perf_counter()
            ours.run(prompts)
            few.append(time.perf_counter() - started)
            for turn in range(29):
                ours.attach(f"more{turn}", NAMES[turn % 3])
            started = time.perf_counter()
            ours.run(prompts)
            full.append(time.perf_counter() - started)
            for turn in range(29):
                ours.engine.detach(f"more{turn}")
        change = statistics.median(full) / statistics.median(few) - 1
        return {
            "step_time_change_from_3_to_32_adapters": round(change, 4),
            "base_unchanged": ours.engine.check_fingerprint()[1],
        }

    return run


def main() -> None:
    arm, base, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(base)
    work = build(arm, base, folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        conversations = [[Message(**message) for message in messages] for messages in json.loads(line)]
        print(json.dumps(work([render_prompt(tokenizer, messages) for messages in conversations])), flush=True)


if __name__ == "__main__":
    main()
