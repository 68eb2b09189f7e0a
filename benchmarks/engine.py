"""The engine against PEFT, generate and llama.cpp: base + 3 LoRA adapters (r = 8, all linear), 4 replies of 64 tokens, prefill
included, greedy, on the default base.

    python benchmarks/engine.py [--rounds 5] [--llama-cpp PYTHON GGUF] [--only ARM] [--out benchmarks/results/engine.json]

Correctness first: the engine's texts against PEFT's, near-ties counted. Then each arm lives in a process of its own with the
allocator as it comes, as the app runs, and they take turns: one measured run each, ROUNDS times, medians. Ends of replies are suppressed in every arm, so
that all write 64 tokens. --llama-cpp: a Python that has llama-cpp-python, and the base as GGUF (it has no LoRA here: base only).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ARMS = Path(__file__).with_name("engine_arms.py")
LLAMA = Path(__file__).with_name("llama_cpp_arm.py")
TOKENS = 64
NAMES = ("one", "two", "three")
REST = ("switching", "attaching", "many")


class Arm:
    """A process that runs its work once for every line it is sent, and answers with JSON."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.seconds = name, [0.0]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        self.ready = self._line()

    def run(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _line(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended without an answer")


def make_adapters(base: Path, folder: Path) -> None:
    """Three LoRA adapters with random, small B: real work, other words."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

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


def first_difference(a: str, b: str) -> int | None:
    """Index of the first character in which two texts differ."""
    return None if a == b else next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    from playground.library.bases import resolve
    from playground.settings import Settings

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-cpp", nargs=2, metavar=("PYTHON", "GGUF"))
    parser.add_argument("--only", choices=REST, help="measure this again, and put it into --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = resolve("smollm2-135m", Settings.from_env()).path
    folder = Path(tempfile.mkdtemp())
    make_adapters(base, folder)

    def arm(name: str) -> Arm:
        return Arm(name, [sys.executable, str(ARMS), name, str(base), str(folder)])

    if options.only:
        one = arm(options.only)
        again = one.run()
        one.close()
        print(json.dumps(again))
        if options.out:
            options.out.write_text(json.dumps(json.loads(options.out.read_text()) | again, indent=1) + "\n")
        return

    tokens = {"generate_one_row": TOKENS, "ours_one_row": TOKENS}
    names = ["peft_one_by_one", "peft_mixed_batch", "ours", "generate_base_batch", "ours_base_batch", *tokens]
    arms = [arm(name) for name in names]
    if options.llama_cpp:
        prompts = folder / "prompts.json"
        prompts.write_text(json.dumps(arms[0].ready["prompts"]))
        arms.append(Arm("llama_cpp", [options.llama_cpp[0], str(LLAMA), options.llama_cpp[1], str(prompts)]))

    texts = {one.name: one.run()["texts"] for one in arms}  # also the warm-up
    same = [a == b for a, b in zip(texts["ours"], texts["peft_one_by_one"], strict=True)]
    differences = [first_difference(a, b) for a, b in zip(texts["ours"], texts["peft_one_by_one"], strict=True)]
    assert sum(same) >= 3, differences
    assert len(set(texts["ours"])) == 4

    times: dict[str, list[float]] = {one.name: [] for one in arms}
    for _ in range(options.rounds):
        for one in arms:
            times[one.name].append(one.run()["seconds"])
    speed = {name: tokens.get(name, 4 * TOKENS) / statistics.median(taken) for name, taken in times.items()}
    for one in arms:
        one.close()
    rest = {}
    for name in REST:
        one = arm(name)
        rest |= one.run()
        one.close()

    def ratio(a: str, b: str) -> float | None:
        return round(speed[a] / speed[b], 3) if b in speed else None

    best = max("ours_base_batch", "generate_base_batch", key=lambda name: speed[name])
    figures = {
        "tokens_per_s": {name: round(value, 1) for name, value in speed.items()},
        "seconds": {name: [round(value, 3) for value in taken] for name, taken in times.items()},
        "against_peft_one_by_one": ratio("ours", "peft_one_by_one"),
        "against_peft_mixed_batch": ratio("ours", "peft_mixed_batch"),
        "against_llama_cpp_q4_1_base_only": ratio("ours", "llama_cpp"),
        "adapters_against_best_base_only": ratio("ours", best),
        "best_base_only": best,
        "one_row_against_generate": ratio("ours_one_row", "generate_one_row"),
        "same_text_as_peft": same,
        "first_difference_at_character": differences,
    } | rest
    print(json.dumps(figures, indent=1))
    if options.out:
        import torch

        said = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
        command = " ".join(["python", "benchmarks/engine.py", *said])
        device = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
        found = {"command": command, "device": device, "rounds": options.rounds} | figures
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
