"""Every method for real: it trains, saves, loads in PEFT unchanged, goes on from a checkpoint; the base stays."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import playground.methods.bottleneck  # noqa: F401  # registers its own kind with PEFT
from playground.data.example import Passage
from playground.data.render import Rendered, load_tokenizer, pack
from playground.library.bases import BaseShapes
from playground.library.safety import check_folder
from playground.methods import all_methods, get_method
from playground.methods.method import Options
from playground.training.model import load_for_training, weights_of
from playground.training.objectives import AnswerCollator, TextBlockCollator, answer_loss, generate, padded
from playground.training.run_files import STATE
from playground.training.spec import needs
from tests.training.conftest import moved

CASES = {
    **{name: (name, {}) for name in all_methods()},
    "rslora": ("lora", {"rslora": True}),
    "pissa": ("lora", {"pissa": True}),
    "pissa-rslora": ("lora", {"pissa": True, "rslora": True}),
    "pissa-nf4": ("qlora", {"pissa": True}),
    "prompt-text": ("prompt", {"init_text": "Write a report"}),
    "deep-text": ("p-tuning-v2", {"init_text": "Write a report"}),
    "pfeiffer": ("bottleneck", {"placement": "pfeiffer"}),
    "last-layer": ("full", {"layers": 1}),
}
ROWS = [Rendered("", "", [5, 6, 7, 8, 9, 10], [11, 12, 2]), Rendered("", "", [31, 32], [33, 34, 35, 2])]
IDS = torch.tensor([[5, 6, 7, 8]])


def of(name):
    """(method, rank, options) of a case."""
    method, options = CASES[name]
    chosen = get_method(method)
    return chosen, 4 if chosen.rank is not None else 0, Options(**options)


def load(base, name, **named):
    method, rank, options = of(name)
    return load_for_training(base, method, rank, 1, options, **named)


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def by_peft(adapter, base):
    whole = not (adapter / "adapter_config.json").exists()
    return base_model(adapter) if whole else PeftModel.from_pretrained(base_model(base), str(adapter)).eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_trained_model_is_what_was_planned_and_what_peft_loads(tiny_base, tmp_path, name):
    """Estimates hold to the last byte; PiSSA rewrites no base; NF4 trains on another base than it loads on."""
    method, rank, options = of(name)
    model = load(tiny_base, name)
    before = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(3):
        loss = answer_loss(model, AnswerCollator(0)(ROWS))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters() if key in before)
    model.eval().save_pretrained(tmp_path)
    base = base_model(tiny_base)
    shapes = {key: tuple(p.shape) for key, p in base.named_parameters()}
    sizes = {"steps": 6, "batch_size": 4, "tokens_p95": 40, "tokens_mean": 40, "answer_max": 9}
    plan = needs("sft", shapes, method, rank=rank, options=options, **sizes)
    assert weights_of(model)[0] == plan.trainable_params
    weights = tmp_path / ("model.safetensors" if method.whole else "adapter_model.safetensors")
    assert weights.stat().st_size == plan.disk_bytes
    loaded = logits(by_peft(tmp_path, tiny_base))
    assert method.quantised or (logits(model) - loaded).abs().max() < 1e-4
    assert (loaded - logits(base)).abs().max() > 1e-3
    if not method.whole:
        (tmp_path / STATE).unlink(missing_ok=True)
        check_folder(tmp_path, BaseShapes.from_folder(tiny_base))
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert config.get("init_lora_weights") in (True, None)
        assert config.get("prompt_tuning_init") in ("RANDOM", None)
        assert not config.get("tokenizer_name_or_path")


@pytest.mark.parametrize("name", ["lora", "qlora", "bottleneck", "prefix", "p-tuning-v2", "prompt", "p-tuning"])
def test_a_row_in_a_batch_is_what_it_is_alone_in_peft(tiny_base, tmp_path, name):
    """Neither padding on the left nor virtual tokens may reach a row's loss."""
    quantised = of(name)[0].quantised
    model = moved(load(tiny_base, name)).eval()
    with torch.no_grad():
        together = float(answer_loss(model, AnswerCollator(0)(ROWS)))
    model.save_pretrained(tmp_path)
    alone, total, count = model if quantised else by_peft(tmp_path, tiny_base), 0.0, 0
    for row in ROWS:
        found = logits(alone, torch.tensor([row.prompt_ids + row.completion_ids]))[0, len(row.prompt_ids) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(found, torch.tensor(row.completion_ids), reduction="sum"))
        count += len(row.completion_ids)
    assert together == pytest.approx(total / count, abs=2e-2 if quantised else 1e-4)


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_replies_written_together_are_those_written_alone(tiny_base, name):
    model = load(tiny_base, name).eval()
    replies, _ = generate(model, load_tokenizer(tiny_base), [row.prompt_ids for row in ROWS], 5)
    for row, reply in zip(ROWS, replies, strict=True):
        ids = row.prompt_ids[:]
        for _ in reply:
            ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
        assert reply == ids[len(row.prompt_ids) :]


@pytest.mark.parametrize("name", ["lora", "prefix"])
def test_raw_text_beside_virtual_tokens_shares_no_row(tiny_base, name):
    """Packed, only a row's first document would stand behind the virtual tokens."""
    virtual, model = of(name)[0].virtual, load(tiny_base, name).eval()
    passages = [Passage(row=number, text=text) for number, text in enumerate(("a ward", "all is well here", "ab"))]
    tokenizer = load_tokenizer(tiny_base)
    rows, alone = (pack(tokenizer, passages, 32, together=together) for together in (not virtual, False))
    assert len(rows) == (3 if virtual else 1)
    with torch.no_grad():
        together = float(answer_loss(model, TextBlockCollator(0)(rows)))
        parts = [(float(answer_loss(model, TextBlockCollator(0)([row]))), len(row.ids) - 1) for row in alone]
    assert together == pytest.approx(sum(loss * n for loss, n in parts) / sum(n for _, n in parts), abs=1e-5)


@pytest.mark.parametrize("name", ["lora", "qlora", "prefix", "prompt", "full"])
def test_a_reward_model_scores_a_row_as_it_would_alone(tiny_base, name):
    model, quantised = load(tiny_base, name, scorer=True), of(name)[0].quantised
    long, short = [5, 6, 7, 8, 9], [31, 32, 33]

    def scores(*rows):
        return model(**padded(rows, model.config.pad_token_id, "right"), use_cache=False).logits[:, 0]

    scores(long, short).diff().backward()
    assert [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    model.eval()
    together, alone = (float(scores(*rows).detach()[-1]) for rows in ((long, short), (short,)))
    assert together == pytest.approx(alone, abs=3e-2 if quantised else 1e-4)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bottleneck", "prefix", "p-tuning-v2", "prompt", "p-tuning"])
def test_an_adapter_can_be_learned_further(tiny_base, tmp_path, name):
    moved(load(tiny_base, name)).save_pretrained(tmp_path)
    model = load(tiny_base, of(name)[0].goes_on_as or name, start=tmp_path).eval()
    assert (logits(model) - logits(by_peft(tmp_path, tiny_base))).abs().max() < 1e-5
    answer_loss(model.train(), AnswerCollator(0)(ROWS)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_pissa_begins_where_the_base_is_with_its_strongest_directions_and_its_other_half_stays(tiny_base):
    model = load(tiny_base, "pissa")
    assert (logits(model) - logits(base_model(tiny_base))).abs().max() < 1e-4
    module = next(module for key, module in model.named_modules() if key.endswith("q_proj"))
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    found = torch.linalg.svdvals(module.scaling["default"] * b[:, :4] @ a[:4])[:4]
    assert torch.allclose(found, torch.linalg.svdvals(module.get_base_layer().weight)[:4], rtol=0.02)
    start = a.detach().clone()
    assert torch.equal(start[:4], start[4:])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    answer_loss(model, AnswerCollator(0)(ROWS)).backward()
    optimiser.step()
    assert torch.equal(a[4:], start[4:])
    assert not torch.equal(a[:4], start[:4])


def test_virtual_tokens_begin_as_a_text_where_one_is_given(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    model = load_for_training(tiny_base, get_method("prompt"), 5, 1, Options(init_text="Yes"))
    ids = tokenizer("Yes", add_special_tokens=False)["input_ids"]
    expected = base_model(tiny_base).get_input_embeddings().weight[(ids * 5)[:5]]
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, expected)
    text = tokenizer("One two three four", add_special_tokens=False)["input_ids"][:3]
    options = Options(init_text="One two three four")
    model = load_for_training(tiny_base, get_method("p-tuning-v2"), 3, 1, options).eval()
    expected = logits(base_model(tiny_base), torch.tensor([[*text, 9, 10]]))[:, -2:]  # as the text itself in the cache
    assert (logits(model, torch.tensor([[9, 10]])) - expected).abs().max() < 1e-4
