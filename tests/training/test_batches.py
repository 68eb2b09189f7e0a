"""Batches and their loss: padded rows, raw text in blocks, and packed sequences, which learn what rows learn alone."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, MistralConfig

from playground.data.render import Packed, Rendered
from playground.methods import get_method
from playground.training import objectives, processes
from playground.training.fused import SHORT, Heads, Rows, fits
from playground.training.model import load_for_training, precision
from playground.training.objectives import AnswerCollator, PackedSequenceCollator, TextBlockCollator, answer_loss
from tests.training.conftest import PLAIN, moved, rows

IGNORED = objectives.IGNORED
ROWS = [Rendered("", "", [5, 6, 7, 8], [9, 10]), Rendered("", "", [11], [12, 13, 14])]
TEXTS = [Packed([5, 6, 7, 8, 9], (0, 3)), Packed([10, 11], (0,))]
DICE = random.Random(3)
LENGTHS = [DICE.randrange(10, 400) for _ in range(103)]


def test_answers_begin_in_one_column_and_a_person_s_later_turn_is_read_and_not_learned():
    batch = AnswerCollator(0)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 0], [0, 0, 0, 11, 12, 13, 14]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch["position_ids"][1].tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[9, 10, IGNORED], [12, 13, 14]]
    turns = [Rendered("", "", [5], [6, 7, 8, 9, 10], read=((1, 3),)), Rendered("", "", [11, 12], [13])]
    assert AnswerCollator(0)(turns)["labels"].tolist() == [[6, IGNORED, IGNORED, 9, 10], [13, *[IGNORED] * 4]]


def test_packed_documents_begin_anew():
    batch = TextBlockCollator(0)(TEXTS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [10, 11, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[6, 7, IGNORED, 9], [11, IGNORED, IGNORED, IGNORED]]
    assert "attention_mask" not in batch


def test_the_line_holds_what_is_shared_and_then_each_row():
    batch = PackedSequenceCollator()(
        [Rendered("", "", [5, 6, 7, 8], [9, 10]), Rendered("", "", [5, 6, 11], [12, 13, 14], read=((1, 2),))]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 11, 12, 13]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert (batch["spans"].tolist(), batch["learned"].tolist()) == ([2, 3, 3], [3, 4, 5, 7])
    assert batch["labels"].tolist() == [9, 10, 12, 14]


def test_only_what_spares_enough_is_shared_and_never_a_prompt_s_last_token():
    long = [Rendered("", "", [1, *range(10, 200), place], [5, 6]) for place in range(4)]
    assert objectives.shared_tokens(long) == 191
    assert objectives.shared_tokens([Rendered("", "", [1, 100 + place, *range(150)], [5]) for place in range(4)]) == 0
    assert objectives.shared_tokens([Rendered("", "", [1, 2, 3], [4, place]) for place in range(3)]) == 2
    assert objectives.shared_tokens(long[:1]) == 0
    assert objectives.shared_tokens([Rendered("", "", [1], [2]), Rendered("", "", [1], [3])]) == 0


def batches(seed, epoch=0):
    sampler = objectives.Buckets(LENGTHS, 8, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(103)), "each row once"
    return [order[at : at + 8] for at in range(0, len(order), 8)]


def test_padded_rows_come_once_an_epoch_and_the_same_again():
    first, second = ({tuple(sorted(batch)) for batch in batches(5, epoch)} for epoch in (0, 1))
    assert batches(5) == batches(5) != batches(6)
    assert len(first & second) <= 1, "other batches, not another order"


def test_rows_of_a_batch_are_about_as_long_and_batches_come_in_random_order():
    *whole, last = batches(5)

    def padding(some):
        return sum(max(LENGTHS[row] for row in batch) - LENGTHS[row] for batch in some for row in batch)

    assert padding(whole) < 0.25 * padding([list(range(at, at + 8)) for at in range(0, 96, 8)])
    means = [sum(LENGTHS[row] for row in batch) for batch in whole]
    assert means not in (sorted(means), sorted(means, reverse=True))
    assert len(last) == 103 % 8


def loaded(base, name):
    return moved(load_for_training(base, get_method(name), 0 if name in ("ia3", "full") else 4, 1))


def learned(model, batch):
    model.zero_grad()
    loss = answer_loss(model, batch)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(model, some):
    """The loss to 1e-6 of itself, gradients to 1e-5, against padded rows through Hugging Face's own modules."""
    assert fits(model)
    expected, gradients = learned(model, AnswerCollator(0)(some))
    loss, found = learned(model, PackedSequenceCollator()(some))
    assert (loss, found.keys()) == (pytest.approx(expected, rel=1e-6), gradients.keys())
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "full", "bottleneck", "qlora"])
def test_what_packed_sequences_learn_is_the_same(tiny_base, name):
    model = loaded(tiny_base, name)
    for shared, recompute in ((0, False), (9, False), (9, True)):
        some = rows(shared, (2, 7))
        assert (objectives.shared_tokens(some) >= 9) == bool(shared)
        model.recompute = recompute
        same(model, some)
    if name == "lora":
        for shared in (0, 150):
            same(model, rows(shared, (SHORT - 40, SHORT + 20)))


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", ["lora", "full"])
def test_other_families(tmp_path, family, name):
    """Biases (Qwen 2), norms of queries and keys and heads of another width (Qwen 3), a head of its own."""
    torch.manual_seed(0)
    own = {"qwen3": {"head_dim": 32}, "mistral": {"sliding_window": None}}.get(family, {})
    sides = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2} | own
    config = AutoConfig.for_model(
        family, **sides, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    same(loaded(tmp_path, name), rows(9, (2, 7)))


def test_other_models_train_on_padded_rows(tiny_base):
    for name in ("prefix", "prompt", "p-tuning", "p-tuning-v2"):
        model = load_for_training(tiny_base, get_method(name), 4, 1)
        assert isinstance(objectives.collator("sft", 0, model), AnswerCollator)
    small = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert not fits(AutoModelForCausalLM.from_config(GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2)))
    slides = MistralConfig(**small, num_key_value_heads=2, intermediate_size=64, sliding_window=8)
    assert not fits(AutoModelForCausalLM.from_config(slides))
    model = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert isinstance(objectives.collator("sft", 0, model), PackedSequenceCollator)
    assert isinstance(objectives.collator("pretrain", 0, model), TextBlockCollator)


def scaled(model, some, dtype):
    """What autocast and a GradScaler make of packed rows: (loss, all gradients as one)."""
    moving = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in moving} == {torch.float32}
    scaler, optimiser = torch.amp.GradScaler("cpu"), torch.optim.SGD(moving)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = answer_loss(model, PackedSequenceCollator()(some))
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in moving])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["lora", "qlora", "full"])
def test_half_precision_learns_nearly_the_same_with_weights_that_move_in_fp32(monkeypatch, tiny_base, name, dtype):
    some = rows(40, (30, 90))
    expected, gradient = scaled(loaded(tiny_base, name), some, torch.float32)
    if dtype == torch.bfloat16:
        monkeypatch.setenv("PLAYGROUND_PRECISION", "bf16")
        assert precision().compute == dtype
    model = loaded(tiny_base, name)
    for p in model.parameters():
        if p.dtype == torch.float32 and not p.requires_grad:
            assert dtype == torch.float16, "the base, its norms and its head are loaded in bf16"
            p.data = p.data.half()  # as on a card; here nothing computes in fp16 unless it must
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
    loss, found = scaled(model, some, dtype)
    assert loss == pytest.approx(expected, rel=0.02)
    # other 4-bit codes come of weights that were rounded to bf16 first
    assert torch.cosine_similarity(found, gradient, dim=0) > (0.9 if name == "qlora" else 0.98)


@pytest.mark.parametrize("spans", [[0, 7, 1, 12], [5, 7, 1, 12]])
def test_rows_attended_to_at_once_as_on_a_card_are_what_they_are_one_by_one(spans):
    torch.manual_seed(1)
    heads = Heads(4, 2, 8, 0.3)
    qkv = torch.randn(sum(spans), 8 * 8, requires_grad=True)
    attention = Rows(spans, qkv)
    places = torch.tensor([row * 12 + at for row, n in enumerate(spans[1:]) for at in range(n)])
    weights = torch.randn(sum(spans), 32)
    found = [attention.attend(qkv, heads), attention.attend_at_once(qkv, heads, places)]
    gradients = [torch.autograd.grad((one * weights).sum(), qkv)[0] for one in found]
    for one, other in (found, gradients):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_run_that_goes_past_its_limit_or_what_is_free_recomputes(tiny_base):
    cases = [(5, 0, 8, False), (9, 0, 8, True), (5, 4, 8, True), (5, 6, 8, False), (5, 6, 4, True), (0, 0, 8, False)]
    for needs, limit, free, wanted in cases:
        assert objectives.exceeds(needs, limit, free) is wanted
    inside = replace(PLAIN, estimated_memory_bytes=2_000_000)
    too_large = replace(inside, limit_memory_bytes=1_000_000)
    model = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert not objectives.save_memory(model, inside)
    assert not getattr(model, "recompute", False)
    assert objectives.save_memory(model, too_large)
    assert model.recompute
    assert not objectives.save_memory(load_for_training(tiny_base, get_method("prefix"), 4, 1), too_large)
    assert objectives.save_memory(load_for_training(tiny_base, get_method("lora"), 4, 1), inside, must=True)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_run_whose_memory_ran_out_takes_less_and_learns_the_same(spec_in, run_worker, tmp_path, objective):
    pairs = [{"prompt": f"Say {n}", "chosen": f"It is {n}, gladly.", "rejected": "No."} for n in range(24)]
    losses = []
    for name, said in (("whole", ""), ("again", processes.RAN_OUT)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / processes.LOW_MEMORY).write_text(said)
        events = run_worker(spec_in(tmp_path, pairs if objective == "dpo" else (), objective=objective), folder)
        assert events[-1]["event"] == "done", events[-1]
        told = [one["message"] for one in events if one["event"] == "state"]
        assert any("activations are computed twice, a step in parts (2)" in one for one in told) is bool(said)
        losses.append([one["loss"] for one in events if one["event"] == "step"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
