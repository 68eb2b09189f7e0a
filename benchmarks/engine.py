"""The app against PEFT, generate and llama.cpp: base + 3 LoRA adapters (r = 8, all linear), 4 replies of 64 tokens,
prefill included, greedy, on the default base.

    python benchmarks/engine.py [--rounds 3] [--before CHECKOUT] [--apps-only] [--llama-cpp PYTHON GGUF] [--add] [--out
    FILE]
    python benchmarks/engine.py --precisions ...    # peers in bf16 and the app in fp32 too; ours in what it measured
    python benchmarks/engine.py --only switching|attaching|many --out ...     # the engine alone; put into what is there

Ours is the real app in a process and a home of its own, asked over /v1 with 1, 2, 4 and 8 requests at once, the base
and the adapters in turn; before: an older checkout's app, asked in the same way. The others are processes of their
own with the allocator as it comes. Correctness first: the app's texts against PEFT's, near-ties counted. Then they
take turns: one measured run each, ROUNDS times, medians. Every run asks what nobody asked before, from the first word
on, so that no beginning is there already. Ends of replies are suppressed in every arm, so that all write 64 tokens.
--llama-cpp: a Python that has llama-cpp-python, and the base as GGUF (it has no LoRA here: base only). --add: more
rounds of the same for --out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.served import Served

HERE = Path(__file__).resolve().parent
ARMS = HERE / "engine_arms.py"
LLAMA = HERE / "llama_cpp_arm.py"
TOKENS = 64
NAMES = ("one", "two", "three")
QUESTIONS = (
    "What is the capital of France?",
    "Male, 54, chest tightness since this morning, BP 150/95, pulse 102, temperature 36.8, smoker.",
    "My kettle, order C-12345, is broken and I want my money back.",
    "Write one sentence about rain.",
)
ROWS = (1, 2, 4, 8)
REST = ("switching", "attaching", "many")
Messages = list[dict[str, str]]


class Arm:
    """A process that runs its work once for every line it is sent, the four conversations, and answers with JSON."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        self.ready = self._line()

    def run(self, conversations: list[Messages]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(conversations) + "\n")
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
    return (
        None if a == b else next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    )


def conversations(number: int, rows: int = 4) -> list[Messages]:
    """The four questions in turn, in words that no other number has."""
    return [
        [
            {"role": "system", "content": f"{number}.{row} is the number of this case. You answer in a few sentences."},
            {"role": "user", "content": QUESTIONS[row % 4]},
        ]
        for row in range(rows)
    ]


def asking(app: Served, rows: int, base_only: bool = False) -> Callable[[int, int], Any]:
    """(number, tokens) -> what the app answers to so many at once: the base, the three adapters, the base again, ..."""
    models = ["base"] * 4 if base_only else ["base", *app.models]

    def ask(number: int, tokens: int) -> Any:
        return app.ask([(models[row % 4], told) for row, told in enumerate(conversations(number, rows))], tokens)

    return ask


def measure(options: argparse.Namespace, base: Path, folder: Path, first: int) -> dict[str, Any]:
    """seconds of each arm, a value a round; and the app's texts compared with PEFT's. first: number of the first
    round."""
    apps = {"ours": Served(HERE.parent, base, [folder / name for name in NAMES])}
    if options.before:
        apps["before"] = Served(options.before, base, [folder / name for name in NAMES])
    names = ["peft_one_by_one", "peft_mixed_batch", "generate_base_batch", "generate_one_row"]
    if options.precisions:
        folders = [folder / name for name in NAMES]
        apps["ours_fp32"] = Served(HERE.parent, base, folders, PLAYGROUND_PRECISION="fp32")
        names += [f"{name}_bf16" for name in names if name != "generate_base_batch"]
    arms = [
        Arm(name, [sys.executable, str(ARMS), name, str(base), str(folder)]) for name in names if not options.apps_only
    ]
    if options.llama_cpp:
        python, gguf = options.llama_cpp
        arms.append(Arm("llama_cpp", [python, str(LLAMA), gguf]))
    many = (1, 2, 4) if options.precisions else ROWS
    asks = {f"{name}_rows_{rows}": asking(app, rows) for name, app in apps.items() for rows in many}
    asks |= {f"{name}_base_batch": asking(app, 4, base_only=True) for name, app in apps.items()}

    for ask in asks.values():
        ask(first, 4)
    told = {arm.name: arm.run(conversations(first))["texts"] for arm in arms}  # also the warm-up
    found: dict[str, Any] = {}
    if not options.apps_only:
        ours, peft = asks["ours_rows_4"](first, TOKENS)["texts"], told["peft_one_by_one"]
        same = [a == b for a, b in zip(ours, peft, strict=True)]
        differences = [first_difference(a, b) for a, b in zip(ours, peft, strict=True)]
        assert options.precisions or sum(same) >= 3, differences
        assert len(set(ours)) == 4
        found = {"same_text_as_peft": same, "first_difference_at_character": differences}

    seconds: dict[str, list[float]] = {name: [] for name in [*asks, *(arm.name for arm in arms)]}
    number = 100 * (first + 1)
    for _ in range(options.rounds):
        for place, (name, ask) in enumerate(asks.items()):
            seconds[name].append(round(ask(number + place, TOKENS)["seconds"], 3))
        for place, arm in enumerate(arms):
            seconds[arm.name].append(round(arm.run(conversations(number + 50 + place))["seconds"], 3))
        number += 100
    for one in (*arms, *apps.values()):
        one.close()
    return found | {"seconds": seconds}


def ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    replies = {
        name: int(name.rpartition("_")[2]) if "_rows_" in name else 1 if "one_row" in name else 4 for name in seconds
    }
    speed = {name: replies[name] * TOKENS / statistics.median(taken) for name, taken in seconds.items()}

    def ratio(a: str, b: str) -> float | None:
        return round(speed[a] / speed[b], 3) if b in speed else None

    best = max("ours_base_batch", "generate_base_batch", key=lambda name: speed.get(name, 0.0))
    one_after_other = [a / b for a, b in zip(seconds["ours_rows_1"], seconds["ours_rows_2"], strict=True)]
    found = {
        "tokens_per_s": {name: round(value, 1) for name, value in speed.items()},
        "against_peft_one_by_one": ratio("ours_rows_4", "peft_one_by_one"),
        "against_peft_mixed_batch": ratio("ours_rows_4", "peft_mixed_batch"),
        "against_llama_cpp_q4_1_base_only": ratio("ours_rows_4", "llama_cpp"),
        "adapters_against_best_base_only": ratio("ours_rows_4", best),
        "best_base_only": best,
        "one_row_against_generate": ratio("ours_rows_1", "generate_one_row"),
        "seconds_of_one_row_against_two": round(statistics.median(one_after_other), 3),
    }
    if "ours_fp32_rows_4" in speed:
        peers = {"peft_one_by_one": "rows_4", "peft_mixed_batch": "rows_4", "generate_one_row": "rows_1"}
        found["each_in_its_best_precision"] = {
            peer: round(
                max(speed[f"ours_{rows}"], speed[f"ours_fp32_{rows}"]) / max(speed[peer], speed[f"{peer}_bf16"]), 3
            )
            for peer, rows in peers.items()
        }
        found["both_in_fp32"] = {peer: ratio(f"ours_fp32_{rows}", peer) for peer, rows in peers.items()}
        found["both_in_bf16"] = {peer: ratio(f"ours_{rows}", f"{peer}_bf16") for peer, rows in peers.items()}
    if "before_rows_1" in speed:
        found["against_before"] = {
            name: ratio(name, name.replace("ours", "before")) for name in speed if name.startswith("ours")
        }
    return found


def main() -> None:
    from playground.library.bases import resolve
    from playground.settings import Settings

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--llama-cpp", nargs=2, metavar=("PYTHON", "GGUF"))
    parser.add_argument("--only", choices=REST, help="measure this, and put it into --out")
    parser.add_argument("--apps-only", action="store_true", help="ours and --before, without the others")
    parser.add_argument("--precisions", action="store_true")
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = resolve("smollm2-135m", Settings.from_env()).path
    folder = Path(tempfile.mkdtemp())
    make_adapters(base, folder)
    earlier = json.loads(options.out.read_text()) if options.out and (options.add or options.only) else {}

    if options.only:
        one = Arm(options.only, [sys.executable, str(ARMS), options.only, str(base), str(folder)])
        figures = earlier | one.run(conversations(0))
        one.close()
    else:
        figures = measure(options, base, folder, earlier.get("rounds", 0))
        for name, taken in earlier.get("seconds", {}).items():
            figures["seconds"][name] = [*taken, *figures["seconds"][name]]
        figures = ratios(figures["seconds"]) | figures
        figures = earlier | figures
        figures["rounds"] = earlier.get("rounds", 0) + options.rounds
    print(json.dumps(figures, indent=1))
    if options.out:
        import torch

        said = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
        commands = [*earlier.get("commands", []), shlex.join(["python", "benchmarks/engine.py", *said])]
        device = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
        options.out.write_text(
            json.dumps({"commands": commands, "device": device} | figures | {"commands": commands}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
