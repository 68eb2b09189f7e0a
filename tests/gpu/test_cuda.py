"""What only a card can show of the engine: marked ``gpu`` and skipped elsewhere. And the benchmark for a card, gone
through on a CPU."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import SIZES, main, vllm_arm
from playground.engine.llama_model import Segment, attend, mask_of
from playground.engine.request import Row, Sampling
from playground.engine.scheduler import CapturedDecode, cuda_capture
from playground.engine.sequence import Sampler, draw
from tests.engine.models import engine_with, llama, run, save_adapters, save_base


def card(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


SETTINGS = [
    Sampling(),
    Sampling(temperature=0.8, seed=3),
    Sampling(temperature=1.0, top_k=40, seed=4),
    Sampling(temperature=1.2, top_p=0.95, repetition_penalty=1.2, min_tokens=3, seed=5),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    base = save_base("llama", folder / "base", max_position_embeddings=2048)
    return engine_with(base, save_adapters(base, folder, {"lora-1": {}, "lora-2": {}}), "llama", dtype=torch.float32)


@card
def test_a_step_waits_for_the_card_once(engine):
    model = llama(engine).model
    cache, adapters, steps = model.new_cache(1 << 24), model.new_adapter_slots(), CapturedDecode(model)
    slots = [adapters.acquire(llama(engine).scheduler.find(name)) for name in (None, "lora-1", "lora-2", None)]
    adapters.select(slots)
    samplers = [Sampler(one, [5, 6], (2,)) for one in SETTINGS]
    for turn in range(6):
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn" if turn else "default")  # the first captures
            draw(samplers, steps.decode([turn + 1] * 4, [turn] * 4, cache, adapters))
            torch.cuda.set_sync_debug_mode("default")
        assert len([one for one in waits if "synchroniz" in str(one.message)]) == bool(turn)


@card
def test_real_graphs_stand_while_the_cache_grows_and_slots_widen(engine):
    path, captured = llama(engine), []
    model = path.model
    steps = CapturedDecode(model, lambda work, beside: captured.append(work) or cuda_capture(work, beside))
    worlds = [(model.new_cache(1), model.new_adapter_slots()) for _ in range(2)]
    slots = [[one.acquire(path.scheduler.find(name)) for name in ("lora-1", "lora-2")] for _, one in worlds]
    for length in (9, 250, 300, 600, 1000, 300, 9):
        for (cache, adapters), own in zip(worlds, slots, strict=True):
            model.prefill(
                [Segment(row, [5, 6 + row], length - 2, slot) for row, slot in enumerate(own)], cache, adapters
            )
            adapters.select(own)
        found = steps.decode([3, 4], [length] * 2, *worlds[0]).clone()
        assert (found - model.decode([3, 4], [length] * 2, *worlds[1])).abs().max() < 1e-2
    assert len(captured) <= 6


@card
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_attention_over_32000_tokens_is_right_and_writes_no_scores_down(dtype):
    cuda, total = torch.device("cuda"), 32_000
    q = torch.randn(256, 32, 64, device=cuda, dtype=dtype)
    keys, values = torch.randn(2, total, 4, 64, device=cuda, dtype=dtype)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = attend(q, keys, values, mask_of(256, total, dtype, cuda))
    assert torch.cuda.max_memory_allocated() - before < 100e6
    scores = (q[:, 0].double() @ keys[:, 0].double().t()) / 8
    scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(total - 256 + 1), float("-inf"))
    assert (found[:, 0].double() - scores.softmax(-1) @ values[:, 0].double()).abs().max() < 1e-2


@card
def test_the_card_draws_what_the_processor_draws():
    generator = torch.Generator().manual_seed(0)
    here, there = ([Sampler(one, [5, 6], (2,)) for one in SETTINGS] for _ in range(2))
    for _ in range(20):
        logits = 3.0 * torch.randn(4, 5000, generator=generator)
        assert draw(here, logits) == draw(there, logits.cuda())


@card
def test_four_bits_on_the_fast_path_write_what_the_other_path_writes(tmp_path):
    base = save_base("llama", tmp_path / "base")
    adapters = save_adapters(base, tmp_path, {"lora": {}})
    asked = [Row("One two", name, Sampling(max_tokens=12)) for name in (None, "lora")]
    said = [
        [state.tokens for state in run(engine_with(base, adapters, way, quantised=True, dtype=torch.float32), asked)]
        for way in ("llama", "hf")
    ]
    assert said[0] == said[1]


def test_the_benchmark_for_a_card_goes_through_all_its_parts_on_a_processor(tmp_path):
    out, script = tmp_path / "cuda.json", Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["correctness"]["worst_gap"] <= found["correctness"]["allowed"]
    assert found["correctness"]["with_the_wrong_adapter"] > found["correctness"]["allowed"]
    assert all(speed > 0 for rows in found["tokens_per_s"].values() for speed in rows.values())
    assert {"training", "memory"} <= found.keys()


def test_without_a_card_the_benchmark_says_so_and_its_vllm_arm_gives_each_row_its_adapter(tmp_path, capsys):
    if not torch.cuda.is_available():
        assert main(["--out", str(tmp_path / "cuda.json")]) == 2
        assert "no CUDA card" in capsys.readouterr().err
        assert not (tmp_path / "cuda.json").exists()
    asked = []

    class Llm:
        def __init__(self, **options):
            assert options["enable_lora"]
            assert options["max_loras"] == 3

        def generate(self, prompts, sampling, lora_request, use_tqdm):
            asked.append((len(prompts), [one and one[0] for one in lora_request]))

    fake = SimpleNamespace(LLM=Llm, SamplingParams=dict, LoRARequest=lambda *of: of)
    vllm_arm(fake, tmp_path, SIZES["tiny"], torch.float32)(5)
    assert asked == [(5, [None, "one", "two", "three", None])]
