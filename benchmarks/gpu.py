"""The engine and training on a CUDA card, in one command of under 8 minutes: ``gpu.py [--shape 1b|7b] [--out FILE]``.

A Llama of random weights is made on the spot, with three LoRA adapters. 1. Correctness: a mixed batch of 8 rows writes
what PEFT finds likeliest, each row with its own adapter, up to near-ties (``NEAR`` of the largest logit); with the
base's logits in their place it must not, or the check sees nothing. Figures follow only where that holds. 2. Tokens a
second at 1, 8 and 16 rows, rounds in turn: our batch of mixed adapters; PEFT's mixed batch; ``generate`` of the base
alone; vLLM with the same adapters where it is installed. 3. LoRA steps in the card's half precision: ours and TRL's
with packing, tokens a second. 4. The memory that the run was said to need against its peak.

Without a card it says so and ends with 2; ``--device cpu --tiny`` goes through all of it on a model of no use."""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, Sampling

HERE = Path(__file__).resolve().parent
NAMES = (None, "one", "two", "three")
NEAR = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.06}
ROUNDS = 3


class Size(NamedTuple):
    """Of the model: hidden, MLP, layers, heads, key-value heads, vocabulary. Tokens of a prompt and of a reply; rows of
    a batch; training steps, rows a step, words a row."""

    sides: tuple[int, int, int, int, int, int]
    prompt: int = 64
    reply: int = 128
    rows: tuple[int, ...] = (1, 8, 16)
    steps: int = 12
    batch: int = 8
    words: int = 400


SIZES = {
    "1b": Size((2048, 5632, 22, 32, 4, 32_000)),
    "7b": Size((4096, 14_336, 32, 32, 8, 32_000), steps=8),
    "tiny": Size((64, 128, 2, 4, 2, 400), prompt=6, reply=5, rows=(1, 3), steps=3, batch=2, words=12),
}


def make_base(folder: Path, size: Size, device: torch.device, dtype: torch.dtype) -> None:
    """The model, a tokenizer whose tokens are the words w0, w1 ..., and the adapters one, two and three."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    hidden, inner, layers, heads, kv_heads, vocabulary = size.sides
    words = {f"w{n}": n for n in range(vocabulary - 2)} | {"<eos>": vocabulary - 2, "<pad>": vocabulary - 1}
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **ends).save_pretrained(folder / "base")
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        eos_token_id=vocabulary - 2,
        pad_token_id=vocabulary - 1,
        bos_token_id=None,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder / "base")
    for name in NAMES[1:]:
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        peft = get_peft_model(model, lora)
        for key, weight in peft.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.02)
        peft.save_pretrained(folder / str(name))
        model = peft.unload()


def prompts(size: Size, rows: int) -> list[str]:
    return [" ".join(f"w{(7 * n + 31 * row) % 390}" for n in range(size.prompt)) for row in range(rows)]


def carried(rows: int) -> list[str | None]:
    return [NAMES[row % len(NAMES)] for row in range(rows)]


class Ours:
    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.engine = Engine(folder / "base", dtype=dtype)
        for name in NAMES[1:]:
            self.engine.attach(AdapterFile(str(name), folder / str(name), str(name)))

    def tokens(self, size: Size, rows: int) -> list[tuple[int, ...]]:
        sampling = Sampling(max_tokens=size.reply, ignore_eos=True)
        self.engine.clear_prefix_cache()
        asked = [Row(text, name, sampling) for text, name in zip(prompts(size, rows), carried(rows), strict=True)]
        return [state.tokens for state in list(self.engine.stream(asked))[-1]]


class Peers:
    """PEFT's mixed batch, and ``generate`` of the base alone."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        plain = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype).to(device)
        self.model: Any = PeftModel.from_pretrained(plain, folder / "one", adapter_name="one")
        for name in NAMES[2:]:
            self.model.load_adapter(folder / str(name), adapter_name=name)
        self.model.eval().to(dtype)  # PEFT reads adapters in fp32
        self.device = device

    def ids(self, size: Size, rows: int) -> torch.Tensor:
        return torch.tensor(self.tokenizer(prompts(size, rows))["input_ids"], device=self.device)

    def generate(self, size: Size, rows: int, *, mixed: bool) -> Any:
        ids = self.ids(size, rows)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False}
        given |= {"max_new_tokens": size.reply, "min_new_tokens": size.reply}
        if mixed:
            return self.model.generate(**given, adapter_names=[name or "__base__" for name in carried(rows)])
        with self.model.disable_adapter():
            return self.model.generate(**given)

    @torch.inference_mode()
    def gaps(self, size: Size, said: Sequence[Sequence[int]], names: Sequence[str | None]) -> list[float]:
        """For each row, how far below the likeliest its tokens lie at worst, as a share of the largest logit."""
        found = []
        for ids, tokens, name in zip(self.ids(size, len(said)), said, names, strict=True):
            whole = torch.cat([ids, torch.tensor(tokens, device=self.device)])[None, :-1]
            logits = self.model(input_ids=whole, adapter_names=[name or "__base__"]).logits[0, -len(tokens) :].float()
            own = logits.gather(1, torch.tensor(tokens, device=self.device)[:, None])[:, 0]
            found.append(float((logits.max(-1).values - own).max() / logits.abs().max()))
        return found


def correctness(ours: Ours, peers: Peers, size: Size) -> dict[str, Any]:
    """Raises RuntimeError where a row did not write what PEFT finds likeliest."""
    rows, near = size.rows[1], NEAR[ours.engine.loaded.dtype]
    said = ours.tokens(size, rows)
    own, as_base = (peers.gaps(size, said, names) for names in (carried(rows), [None] * rows))
    adapted = [gap for gap, name in zip(as_base, carried(rows), strict=True) if name]
    if max(own) > near:
        raise RuntimeError(
            f"A row's token lies {max(own):.4f} of the largest logit below PEFT's likeliest, not {near}."
        )
    if min(adapted) <= near:
        raise RuntimeError("The adapters change too little for this check to see a mistake.")
    return {"worst_gap": round(max(own), 5), "allowed": near, "with_the_wrong_adapter": round(min(adapted), 5)}


def timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def throughput(arms: dict[str, Callable[[int], object]], size: Size, device: torch.device) -> dict[str, Any]:
    """Tokens a second by arm and rows: medians of rounds in turn, the first of each left out."""
    found: dict[str, Any] = {}
    for rows in size.rows:
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(ROUNDS + 1):
            for name, work in arms.items():
                seconds = timed(lambda work=work, rows=rows: work(rows), device)  # type: ignore[misc]
                if turn:
                    taken[name].append(seconds)
        speed = {name: rows * size.reply / statistics.median(one) for name, one in taken.items()}
        found[f"{rows} rows"] = {name: round(value, 1) for name, value in speed.items()}
        print(rows, "rows", found[f"{rows} rows"], flush=True)
    return found


def vllm_arm(vllm: Any, folder: Path, size: Size, dtype: torch.dtype) -> Callable[[int], object]:
    """vLLM's own continuous batching, each row with its adapter."""
    request = getattr(vllm, "LoRARequest", None) or import_module("vllm.lora.request").LoRARequest
    options = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 16, "gpu_memory_utilization": 0.4}
    llm = vllm.LLM(model=str(folder / "base"), dtype=str(dtype).removeprefix("torch."), max_model_len=2048, **options)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=size.reply, ignore_eos=True)
    loras = {name: request(name, place, str(folder / str(name))) for place, name in enumerate(NAMES) if name}
    return lambda rows: llm.generate(
        prompts(size, rows), sampling, lora_request=[loras.get(name) for name in carried(rows)], use_tqdm=False
    )


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def training(folder: Path, size: Size, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Tokens a second of LoRA steps, ours and TRL's with packing, and our estimate against the peak."""
    rows = [
        " ".join(f"w{(n * row) % 390}" for n in range(1, size.words)) for row in range(1, 1 + size.steps * size.batch)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": one[:20], "completion": one}) for one in rows))
    ours, estimate, peak = train_ours(folder, size, device)
    free()
    theirs = train_trl(folder, rows, size, device, dtype)
    said = {"ours_tokens_per_s": round(ours, 1), "trl_packed_tokens_per_s": round(theirs, 1)}
    memory = {"estimated_bytes": estimate, "peak_bytes": peak, "ratio": round(estimate / peak, 3)}
    return {"training": said | {"ours_is_faster_by": round(ours / theirs, 3)}, "memory": memory}


def train_ours(folder: Path, size: Size, device: torch.device) -> tuple[float, int, int]:
    from transformers import AutoConfig, AutoModelForCausalLM

    from playground.methods import get_method
    from playground.training import worker
    from playground.training.run_files import EventReader
    from playground.training.spec import RunSpec, needs

    config = AutoConfig.from_pretrained(folder / "base")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(weight.shape) for name, weight in empty.named_parameters()}
    tokens = 2 * size.words
    estimate = needs(
        "sft",
        shapes,
        get_method("lora"),
        rank=16,
        steps=size.steps,
        batch_size=size.batch,
        tokens_p95=tokens,
        tokens_mean=float(size.words),
        answer_max=size.words,
        packed=True,
        cuda=device.type == "cuda",
    )
    run_dir = folder / "run"
    run_dir.mkdir()
    RunSpec(
        run="b",
        name="Benchmark",
        method="lora",
        base="b",
        base_path=str(folder / "base"),
        base_fingerprint="f",
        file=str(folder / "rows.jsonl"),
        data="rows",
        adapters_dir=str(folder / "adapters"),
        shipped_dir=str(folder / "shipped"),
        steps=size.steps,
        lr=1e-4,
        rank=16,
        batch_size=size.batch,
        max_tokens=2048,
        save_steps=size.steps,
        split={"validation": [], "test": []},
    ).write(run_dir)
    ended: list[float] = []
    worker.run(run_dir, stop=lambda: ended.append(time.perf_counter()) is not None)
    last = EventReader(run_dir).read()[-1]
    if last["event"] != "done":
        raise RuntimeError(str(last))
    seconds = statistics.median(after - before for before, after in pairwise(ended[1:]))
    return size.batch * (size.words - 1) / seconds, estimate.memory_bytes, int(last["peak_memory_bytes"])


def train_trl(folder: Path, rows: Sequence[str], size: Size, device: torch.device, dtype: torch.dtype) -> float:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(time.perf_counter())

    ended: list[float] = []
    on_card = device.type == "cuda"
    half = {"bf16": on_card and dtype == torch.bfloat16, "fp16": on_card and dtype == torch.float16}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            max_steps=size.steps,
            per_device_train_batch_size=max(1, size.batch * size.words // 2048),
            max_length=2048 if on_card else 64,
            packing=True,
            gradient_checkpointing=False,
            use_cpu=not on_card,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **half,
        ),
        train_dataset=Dataset.from_list([{"text": one} for one in rows * size.steps]),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = statistics.median(after - before for before, after in pairwise(ended[1:]))
    seen = sum(len(one["input_ids"]) for one in trainer.train_dataset) / len(trainer.train_dataset)
    return seen * trainer.args.per_device_train_batch_size / seconds


def written(folder: Path, size: Size, device: torch.device, dtype: torch.dtype, vllm: Any) -> dict[str, Any]:
    """What is found of replies; nothing of it stays in memory."""
    ours, peers = Ours(folder, dtype), Peers(folder, device, dtype)
    found: dict[str, Any] = {"path": ours.engine.path, "correctness": correctness(ours, peers, size)}
    print(found, flush=True)
    arms: dict[str, Callable[[int], object]] = {
        "ours_mixed": lambda rows: ours.tokens(size, rows),
        "peft_mixed": lambda rows: peers.generate(size, rows, mixed=True),
        "generate_base_alone": lambda rows: peers.generate(size, rows, mixed=False),
    }
    if vllm is not None:
        arms["vllm_mixed"] = vllm_arm(vllm, folder, size, dtype)
    found["tokens_per_s"] = throughput(arms, size, device)
    ours.engine.close()
    return found


def measure(folder: Path, size: Size, device: torch.device, dtype: torch.dtype, vllm: Any = None) -> dict[str, Any]:
    make_base(folder, size, device, dtype)
    free()
    found = written(folder, size, device, dtype, vllm)
    free()
    return found | training(folder, size, device, dtype)


def main(arguments: Sequence[str] | None = None, vllm: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("1b", "7b"), default="1b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of no use, to go through all of it")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cuda.json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA card here, so nothing was measured. Run it on a machine that has one.", file=sys.stderr)
        return 2
    from playground.engine.load import pick_device

    device, dtype = pick_device() if options.device == "cuda" else (torch.device("cpu"), torch.float32)
    size = SIZES["tiny" if options.tiny else options.shape]
    if vllm is None and device.type == "cuda" and find_spec("vllm"):
        vllm = import_module("vllm")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), size, device, dtype, vllm)
    card = torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU, which proves nothing of a card"
    about = {
        "command": shlex.join(["python", "benchmarks/gpu.py", *(arguments or sys.argv[1:])]),
        "device": f"{card}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}",
        "seconds": round(time.perf_counter() - started, 1),
    }
    options.out.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(about | found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
