"""The arms of ``training.py``, one a process: ``training_arms.py ARM BASE FILE STEPS FOLDER``. Prints one line of
JSON: the loss of each step, when each ended (``now``), and what a large product of matrices reaches in this
process."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from playground.data.check import check_file
from playground.data.render import Rendered, load_tokenizer, render_example
from playground.training.model import own_bytes
from playground.training.run_files import EventReader
from playground.training.spec import RunSpec

SEED, RATE, RANK, BATCH, LONGEST = 7, 1e-3, 8, 8, 1024
SIDE = 3072


def now() -> float:
    """Seconds: of the wall's clock; of one thread those of the processor, which other work on the machine does not
    change."""
    return time.process_time() if torch.get_num_threads() == 1 else time.time()


def product_flops(times: int = 4) -> float:
    """The best of a few large fp32 products, in floating-point operations a second."""
    a, b, out = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), torch.empty(SIDE, SIDE)
    taken = []
    for _ in range(times):
        began = now()
        torch.mm(a, b, out=out)
        taken.append(now() - began)
    return 2 * SIDE**3 / min(taken)


def rows_of(base: str, file: str) -> tuple[Any, list[Rendered]]:
    tokenizer = load_tokenizer(Path(base))
    return tokenizer, [render_example(tokenizer, example, LONGEST) for example in check_file(Path(file)).examples]


class Clock(TrainerCallback):
    """When each step ended, and its loss."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended.append(now())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))


def common(folder: str, steps: int) -> dict[str, Any]:
    """What the same run means for every trainer; all else is each trainer's own default."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "seed": SEED,
        "data_seed": SEED,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def ours(method: str, precision: str, base: str, file: str, steps: int, folder: str) -> dict[str, Any]:
    """The worker, as the app starts it."""
    from playground.training import worker

    run_dir = Path(folder, "run")
    run_dir.mkdir()
    RunSpec(
        run="b",
        name="Benchmark",
        method=method,
        base="b",
        base_path=base,
        base_fingerprint="f",
        file=file,
        data="rows",
        adapters_dir=str(Path(folder, "adapters")),
        shipped_dir=str(Path(folder, "shipped")),
        steps=steps,
        lr=RATE,
        rank=RANK,
        batch_size=BATCH,
        max_tokens=LONGEST,
        seed=SEED,
        save_steps=steps,
        split={"validation": [], "test": []},
        precision=precision,
    ).write(run_dir)
    ended: list[float] = []

    def stop() -> bool:  # asked after every step
        ended.append(now())
        return False

    worker.run(run_dir, stop=stop)
    events = EventReader(run_dir).read()
    if events[-1]["event"] != "done":
        raise RuntimeError(str(events[-1]))
    made = [event for event in events if event["event"] == "step"]
    return {"losses": [event["loss"] for event in made], "ended": ended}


def plain(dtype: torch.dtype, base: str, file: str, steps: int, folder: str) -> dict[str, Any]:
    """transformers' Trainer with its own collator: rows padded on the right, labels too, logits of every place."""
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq

    tokenizer, rows = rows_of(base, file)
    set_seed(SEED)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), lora())
    data = []
    for row in rows:
        ids = row.prompt_ids + row.completion_ids
        data.append(
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "labels": [-100] * len(row.prompt_ids) + row.completion_ids,
            }
        )
    tokens, learned = [], []
    pad = DataCollatorForSeq2Seq(tokenizer)

    def collate(batch: list[dict[str, Any]]) -> Any:
        tokens.append(sum(len(row["input_ids"]) for row in batch))
        learned.append(sum(label >= 0 for row in batch for label in row["labels"]))
        return pad(batch)

    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**common(folder, steps)),
        train_dataset=data,
        data_collator=collate,
        callbacks=[clock],
    )
    trainer.train()
    return {"losses": clock.losses, "ended": clock.ended, "tokens": tokens[:steps], "learned": learned[:steps]}


def trl(dtype: torch.dtype, base: str, file: str, steps: int, folder: str, **settings: Any) -> dict[str, Any]:
    """TRL's SFTTrainer on prompts and completions: the loss is on the completions by its own default."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer, rows = rows_of(base, file)
    set_seed(SEED)
    data = Dataset.from_list([{"prompt": row.prompt_text, "completion": row.completion_text} for row in rows])
    clock = Clock()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=dtype),
        args=SFTConfig(**common(folder, steps), **settings),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(),
        callbacks=[clock],
    )
    trainer.train()
    return {"losses": clock.losses, "ended": clock.ended, "checkpointing": trainer.args.gradient_checkpointing}


def main() -> None:
    arm, base, file, steps, folder = sys.argv[1:6]
    before = product_flops()
    given = (base, file, int(steps), folder)
    kind, half = arm.removesuffix("_bf16"), arm.endswith("_bf16")
    dtype = torch.bfloat16 if half else torch.float32
    if kind == "plain_trainer":
        found = plain(dtype, *given)
    elif kind == "trl_sft":
        found = trl(dtype, *given)
    elif kind == "trl_sft_no_checkpointing":
        found = trl(dtype, *given, gradient_checkpointing=False)
    else:
        found = ours({"ours": "lora", "ours_qlora": "qlora"}[kind], "bf16" if half else "", *given)
    peak = own_bytes("VmHWM")
    print(json.dumps(found | {"flops": max(before, product_flops()), "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
