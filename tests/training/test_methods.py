"""Every method for real, on the tiny model: it trains, saves, loads in PEFT unchanged, goes on from a checkpoint; the base stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.data.example import Passage
from playground.data.pack import pack
from playground.data.render import Rendered
from playground.library.base_shapes import BaseShapes
from playground.library.safety import check_folder
from playground.methods import all_methods, get_method
from playground.methods.options import Options
from playground.training import worker
from playground.training.batch import AnswerCollator, PackedCollator, answer_loss
from playground.training.checkpoint import STATE, newest_complete
from playground.training.estimate import estimate
from playground.training.events import EventReader
from playground.training.model import load_for_training, optimiser_name, weights_of
from playground.training.spec import RunSpec

ADAPTERS = ("lora", "qlora", "dora", "ia3", "bottleneck", "prefix", "p-tuning-v2", "prompt", "p-tuning")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (*ADAPTERS, "full")},
    "rslora": ("lora", {"rslora": True}),
    "pissa": ("lora", {"pissa": True}),
    "pissa-rslora": ("lora", {"pissa": True, "rslora": True}),
    "pissa-nf4": ("qlora", {"pissa": True}),
    "prompt-text": ("prompt", {"init_text": "Write a report"}),
    "deep-text": ("p-tuning-v2", {"init_text": "Write a report"}),
    "pfeiffer": ("bottleneck", {"placement": "pfeiffer"}),
    "last-layer": ("full", {"layers": 1}),
}
RANK = 4
RATES = {"full": 1e-2, "ia3": 0.1, "prefix": 1e-2, "p-tuning": 5e-3, "prompt": 3e-2, "p-tuning-v2": 3e-2}
ROWS = [Rendered("", "", [5, 6, 7, 8, 9, 10], [11, 12, 2]), Rendered("", "", [31, 32], [33, 34, 35, 2])]


def of(name: str) -> tuple[Any, int, Options]:
    method, options = CASES[name]
    chosen = get_method(method)
    return chosen, RANK if chosen.rank is not None else 0, Options(**options)


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of every case, made once when first asked for: (its folder, its adapter's folder, its events)."""
    runs: dict[str, tuple[Path, Path, list[dict[str, Any]]]] = {}

    patch = pytest.MonkeyPatch()
    patch.setattr("playground.training.objectives.objective.SAMPLE_TOKENS", 2)  # most of a run's time here would be samples

    def make(name: str) -> tuple[Path, Path, list[dict[str, Any]]]:
        if name not in runs:
            place = tmp_path_factory.mktemp(name)
            events = run(spec_of(name, tiny_base, place), place / "run")
            assert events[-1]["event"] == "done", events[-1]
            runs[name] = (place / "run", place / "adapters" / events[-1]["adapter"], events)
        return runs[name]

    yield make
    patch.undo()


def spec_of(name: str, base: Path, place: Path) -> RunSpec:
    method, rank, options = of(name)
    file = place / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"Say number {n}", "completion": f"Number {n}."}) for n in range(16)))
    return RunSpec(
        run=f"r-{name}", name=name, method=method.name, base="tiny", base_path=str(base), base_fingerprint="f", file=str(file),
        data=file.name, adapters_dir=str(place / "adapters"), shipped_dir=str(place / "shipped"), steps=6,
        lr=RATES.get(method.name, 1e-2), rank=rank, batch_size=4, save_steps=3, seed=3, options=options.chosen(),
    )  # fmt: skip


def run(spec: RunSpec, place: Path) -> list[dict[str, Any]]:
    place.mkdir(exist_ok=True)
    spec.write(place)
    worker.run(place)
    return EventReader(place).read()


def base_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def as_peft_loads_it(adapter: Path, base: Path) -> Any:
    from peft import PeftModel

    import playground.methods.bottleneck  # noqa: F401  # registers its own kind with PEFT

    if not (adapter / "adapter_config.json").exists():
        return base_model(adapter)
    return PeftModel.from_pretrained(base_model(base), str(adapter)).eval()


@pytest.mark.parametrize("name", CASES)
def test_a_run_lowers_the_loss_and_makes_what_was_said(made: Any, tiny_base: Path, name: str) -> None:
    """Trained weights and bytes on disk are told beforehand, and are right to the last one."""
    _, folder, events = made(name)
    method, rank, options = of(name)
    done = events[-1]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0] - 0.05, losses
    assert [event for event in events if event["event"] == "sample"]
    shapes = {key: tuple(p.shape) for key, p in base_model(tiny_base).named_parameters()}
    said = estimate(
        shapes, method, rank=rank, steps=6, batch_size=4, tokens_p95=40, tokens_mean=40, answer_max=9, options=options
    )
    assert done["trainable_params"] == said.trainable_params
    weights = folder / ("model.safetensors" if method.whole else "adapter_model.safetensors")
    assert weights.stat().st_size == said.disk_bytes
    record = json.loads((folder / "run.json").read_text())
    assert (record["method"], record["options"], record["kind"]) == (
        method.name,
        options.chosen(),
        "full" if method.whole else "peft",
    )
    assert not (folder / STATE).exists()


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] != "full"])
def test_what_was_made_loads_in_peft_unchanged_and_differs_from_the_base(made: Any, tiny_base: Path, name: str) -> None:
    _, folder, _ = made(name)
    check_folder(folder, BaseShapes.from_folder(tiny_base))
    ids = torch.tensor([[5, 6, 7, 8]])
    model = as_peft_loads_it(folder, tiny_base)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, -4:]
        assert (logits - base_model(tiny_base)(input_ids=ids).logits).abs().max() > 1e-3
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config.get("init_lora_weights") in (True, None)
    assert config.get("prompt_tuning_init") in ("RANDOM", None)
    assert not config.get("tokenizer_name_or_path")


@pytest.mark.parametrize("name", CASES)
def test_the_trained_model_is_what_peft_loads(tiny_base: Path, tmp_path: Path, name: str) -> None:
    """Same logits to the last bit's rounding; PiSSA's base was not rewritten. NF4 trains on another base than it is loaded on."""
    method, rank, options = of(name)
    model = load_for_training(tiny_base, method, rank, 1, options)
    before = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    batch = AnswerCollator(0)(ROWS)
    losses = []
    for _ in range(3):
        loss = answer_loss(model, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters() if key in before)
    model.eval().save_pretrained(tmp_path)
    if method.quantised:
        return
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        loaded = as_peft_loads_it(tmp_path, tiny_base)(input_ids=ids).logits[:, -4:]
        assert (model(input_ids=ids, use_cache=False).logits - loaded).abs().max() < 1e-4


@pytest.mark.parametrize("name", [*ADAPTERS, "pissa"])
def test_a_row_in_a_batch_is_what_it_is_alone_in_peft(tiny_base: Path, tmp_path: Path, name: str) -> None:
    """Padding on the left, virtual tokens before it: neither may reach a row's loss. PEFT itself reads one row without padding."""
    method, rank, options = of(name)
    model = load_for_training(tiny_base, method, rank, 1, options).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dtype.is_floating_point:
                p.add_(0.02 * torch.randn_like(p))
        together = float(answer_loss(model, AnswerCollator(0)(ROWS)))
        model.save_pretrained(tmp_path)
        alone = model if method.quantised else as_peft_loads_it(tmp_path, tiny_base)
        total, count = 0.0, 0
        for row in ROWS:
            ids = torch.tensor([row.prompt_ids + row.completion_ids])
            logits = alone(input_ids=ids, use_cache=False).logits[0, -len(row.completion_ids) - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(row.completion_ids), reduction="sum"))
            count += len(row.completion_ids)
    assert together == pytest.approx(total / count, abs=2e-2 if method.quantised else 1e-4)


@pytest.mark.parametrize("name", ["lora", "prefix", "p-tuning-v2", "prompt", "p-tuning"])
def test_replies_written_together_are_those_written_alone(tiny_base: Path, name: str) -> None:
    method, rank, options = of(name)
    model = load_for_training(tiny_base, method, rank, 1, options).eval()
    batch = AnswerCollator(0)([Rendered("", "", row.prompt_ids, []) for row in ROWS])
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": -1}
    together = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **settings)[:, -5:]
    for row, reply in zip(ROWS, together.tolist(), strict=True):
        ids = row.prompt_ids[:]
        with torch.no_grad():
            for _ in range(5):
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert reply == ids[len(row.prompt_ids) :]


@pytest.mark.parametrize("name", ["lora", "pissa", "prefix", "p-tuning", "prompt", "bottleneck", "ia3"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(made: Any, tiny_base: Path, tmp_path: Path, name: str) -> None:
    """A prefix's file holds what its network makes; what goes on is the network."""
    whole = made(name)[2]
    spec = spec_of(name, tiny_base, tmp_path)
    broken = tmp_path / "run"
    broken.mkdir()
    spec.write(broken)
    asked = iter([False, False, False, True])
    worker.run(broken, stop=lambda: next(asked))
    assert EventReader(broken).read()[-1]["event"] == "cancelled"
    assert newest_complete(broken) == broken / "checkpoints" / "checkpoint-3"
    resumed = run(spec, broken)
    assert resumed[-1]["event"] == "done", resumed[-1]
    assert resumed[-1]["loss"]["last"] == pytest.approx(whole[-1]["loss"]["last"], abs=1e-5)
    assert resumed[-1]["eval_loss"] == pytest.approx(whole[-1]["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_raw_text_beside_virtual_tokens_shares_no_row(tiny_base: Path, name: str) -> None:
    """Packed, only a row's first document would stand behind the virtual tokens. Each row's loss is that of its document alone."""
    method, rank, options = of(name)
    model = load_for_training(tiny_base, method, rank, 1, options).eval()

    class Tokenizer:
        eos_token_id = 2

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [5 + ord(letter) % 50 for letter in text]}

        encode = staticmethod(lambda text, **_: [5 + ord(letter) % 50 for letter in text])

    passages = [Passage(row=number, text=text) for number, text in enumerate(("a ward", "all is well here", "ab"))]
    rows = pack(Tokenizer(), passages, 32, together=not method.virtual)
    assert len(rows) == (3 if method.virtual else 1)
    alone = pack(Tokenizer(), passages, 32, together=False)
    with torch.no_grad():
        together = float(answer_loss(model, PackedCollator(0)(rows)))
        parts = [(float(answer_loss(model, PackedCollator(0)([row]))), len(row.ids) - 1) for row in alone]
    assert together == pytest.approx(sum(loss * many for loss, many in parts) / sum(many for _, many in parts), abs=1e-5)


@pytest.mark.parametrize("name", [*ADAPTERS, "full"])
def test_a_reward_model_scores_a_row_as_it_would_alone(tiny_base: Path, tmp_path: Path, name: str) -> None:
    method, rank, options = of(name)
    model = load_for_training(tiny_base, method, rank, 1, options, scorer=True)
    ids = torch.tensor([[5, 6, 7, 8, 9], [31, 32, 33, 2, 2]])
    ids[1, 3:] = model.config.pad_token_id
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    scores = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]
    (scores[1] - scores[0]).backward()
    learned = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert learned
    model.eval()
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]
        alone = model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3], use_cache=False).logits[0, 0]
    assert float(together[1]) == pytest.approx(float(alone), abs=3e-2 if method.quantised else 1e-4)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bottleneck", "prefix", "p-tuning-v2", "prompt"])
def test_an_adapter_can_be_learned_further(made: Any, tiny_base: Path, name: str) -> None:
    _, folder, _ = made(name)
    method, rank, _ = of(name)
    model = load_for_training(tiny_base, method, rank, 1, start=folder).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = as_peft_loads_it(folder, tiny_base)(input_ids=ids).logits[:, -4:]
        assert (model(input_ids=ids, use_cache=False).logits - expected).abs().max() < 1e-5
    answer_loss(model.train(), AnswerCollator(0)(ROWS)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_pissa_s_other_half_stays(tiny_base: Path) -> None:
    model = load_for_training(tiny_base, get_method("lora"), RANK, 1, Options(pissa=True))
    a = next(p for key, p in model.named_parameters() if "lora_A" in key)
    start = a.detach().clone()
    assert torch.equal(start[:RANK], start[RANK:])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    answer_loss(model, AnswerCollator(0)(ROWS)).backward()
    optimiser.step()
    assert torch.equal(a[RANK:], start[RANK:])
    assert not torch.equal(a[:RANK], start[:RANK])
    assert weights_of(model)[0] * 2 == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_pissa_begins_where_the_base_is_and_moves_its_strongest_directions(tiny_base: Path) -> None:
    model = load_for_training(tiny_base, get_method("lora"), RANK, 1, Options(pissa=True)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert (model(input_ids=ids).logits - base_model(tiny_base)(input_ids=ids).logits).abs().max() < 1e-4
    module = next(module for key, module in model.named_modules() if key.endswith("q_proj"))
    a, b = module.lora_A["default"].weight[:RANK], module.lora_B["default"].weight[:, :RANK]
    found = torch.linalg.svdvals(module.scaling["default"] * b @ a)[:RANK]
    strongest = torch.linalg.svdvals(module.get_base_layer().weight)[:RANK]
    assert torch.allclose(found, strongest, rtol=0.02)


def test_virtual_tokens_begin_as_a_text_where_one_is_given(tiny_base: Path) -> None:
    from playground.data.tokenizer import load_tokenizer

    method = get_method("prompt")
    model = load_for_training(tiny_base, method, 5, 1, Options(init_text="Yes"))
    ids = load_tokenizer(tiny_base)("Yes", add_special_tokens=False)["input_ids"]
    expected = base_model(tiny_base).get_input_embeddings().weight[(ids * 5)[:5]]
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, expected)
    deep = partial(load_for_training, tiny_base, get_method("p-tuning-v2"), 3)
    text = load_tokenizer(tiny_base)("One two three four", add_special_tokens=False)["input_ids"][:3]
    model = deep(1, Options(init_text="One two three four")).eval()
    with torch.no_grad():  # what stands in the cache is what the text itself would have left there
        expected = base_model(tiny_base)(input_ids=torch.tensor([[*text, 9, 10]])).logits[:, -2:]
        assert (model(input_ids=torch.tensor([[9, 10]]), use_cache=False).logits - expected).abs().max() < 1e-4


def test_checkpoints_hold_a_plain_adapter(made: Any, tiny_base: Path) -> None:
    """Whoever keeps a checkpoint copies two files: PiSSA's needs no conversion, a prefix's holds its keys and values."""
    for name in ("pissa", "prefix"):
        run_dir, folder, _ = made(name)
        checkpoint = newest_complete(run_dir)
        assert checkpoint is not None
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.no_grad():
            kept, final = (as_peft_loads_it(place, tiny_base)(input_ids=ids).logits for place in (checkpoint, folder))
        assert (kept - final).abs().max() < 1.0
        assert (checkpoint / STATE).exists() == (name == "prefix")


def test_the_optimiser_fits_the_device() -> None:
    for method in all_methods().values():
        paged = method.quantised and torch.cuda.is_available()
        assert optimiser_name(method) == ("paged_adamw_8bit" if paged else "adamw_torch")


def test_rank_is_not_what_makes_a_whole_model(made: Any) -> None:
    """IA3 has no rank and is an adapter all the same."""
    _, folder, _ = made("ia3")
    assert (folder / "adapter_config.json").exists()
    assert not (folder / "tokenizer.json").exists()
    assert replace(get_method("ia3"), rank=None).whole is False
