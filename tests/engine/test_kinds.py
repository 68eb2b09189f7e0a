"""Every kind of adapter in one batch, on both paths, against PEFT one by one; and what virtual tokens change."""

import pytest
import torch

from playground.engine.llama_memory import PREFIX_MIN
from playground.engine.request import ROOM, TOGETHER, Row, Sampling, ScoreRow, parts
from playground.engine.scheduler import PREFILL_CHUNK
from playground.errors import InputError
from playground.methods import get_method
from playground.training.model import load_for_training
from tests.engine.models import (
    RAIN,
    TEXTS,
    VIRTUAL,
    World,
    byte_tokenizer,
    furthest,
    held_to_peft,
    llama,
    logits_of,
    run,
)
from tests.refused import refused

ALPHAS = {"q_proj": 3, "up_proj": 40}
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {"rank_pattern": {"q_proj": 8, r"model\.layers\.1\.mlp\.down_proj": 2}, "alpha_pattern": ALPHAS},
    "rslora-patterns": {"use_rslora": True, "rank_pattern": {"v_proj": 6}, "alpha_pattern": {"0.self_attn.v_proj": 1}},
    "some-modules": {"target_modules": ["q_proj", "v_proj"]},
    "one-layer": {"target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
    "dora": {},
    "dora-some": {"use_rslora": True, "target_modules": ["k_proj", "up_proj", "down_proj"]},
    "ia3": {},
    "ia3-up": {"target_modules": ["k_proj", "v_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    "ia3-qkv-in": {"target_modules": ["q_proj", "k_proj", "gate_proj"], "feedforward_modules": ["q_proj", "gate_proj"]},
    "prefix": {},
    "prefix-long": {"num_virtual_tokens": 20},
    "deep": {},
    "prompt": {},
    "ptuning": {},
    "ptuning-lstm": {"encoder_reparameterization_type": "LSTM", "num_virtual_tokens": 2},
    "bottleneck": {"activation": "relu"},
    "bottleneck-pfeiffer": {"placement": "pfeiffer", "r": 7, "activation": "silu"},
    "bottleneck-gelu": {"r": 3},
    "bottleneck-odd": {"target_modules": ["k_proj", "gate_proj", "layers.1.mlp.down_proj"], "r": 5},
}
PROMPTS = [
    "One",
    "Hello there, my order has not arrived yet and I would like to know",
    "The report says",
    "1, 2, 3, 4, ",
]
LONG = " ".join(f"word{number}" for number in range(60))
"""A token a letter: more than one chunk."""
TOKENS = 12
ROWS = {name: PROMPTS[number % 4] for number, name in enumerate(("", *KINDS, "qlora"))}
engine = pytest.fixture(lambda path, world: world.engine(path), scope="module")
fast = pytest.fixture(lambda world: world.engine("llama"))


def train_qlora(base, folder):
    """A LoRA trained for a few steps on the base in NF4, by the project's own loader."""
    model = load_for_training(base, get_method("qlora"), rank=4, seed=1)
    ids = torch.tensor([byte_tokenizer()("The quick brown fox jumps over the lazy dog.")["input_ids"]])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama-bias", "qwen3"])
def world(request, tmp_path_factory):
    """A base with biases on all of attention, and one with norms on q and k; other families in test_families.py."""
    made = World(tmp_path_factory.mktemp(request.param), request.param, KINDS, max_position_embeddings=1024)
    made.adapters["qlora"] = train_qlora(made.base, made.base.with_name("qlora"))
    return made


def as_peft_says(engine, world, rows):
    """Rows of one batch have the tokens that each has alone with PEFT; returns them."""
    states = run(engine, rows)
    for row, state in zip(rows, states, strict=True):
        expected = world.said(row.adapter, row.prompt, max(TOKENS, row.sampling.max_tokens)).tokens
        assert list(state.tokens) == expected[: row.sampling.max_tokens], row
    return [state.tokens for state in states]


def row_of(name, tokens=TOKENS):
    return Row(ROWS[name], name or None, Sampling(max_tokens=tokens))


def test_all_kinds_in_one_batch_say_what_peft_says_and_each_differs_from_every_other(engine, world):
    rows = [Row(prompt, name or None, Sampling(max_tokens=TOKENS), logprobs=0) for name, prompt in ROWS.items()]
    for row, state in zip(rows, run(engine, rows), strict=True):
        expected, logits = world.said(row.adapter, row.prompt, TOKENS), world.logits(row.adapter, row.prompt)
        assert list(state.tokens) == expected.tokens, row.adapter
        assert furthest(state, expected.shares) < 1e-3, row.adapter
        assert (logits_of(engine, row.prompt, row.adapter) - logits).abs().max() < 1e-3, row.adapter
    assert engine.check_fingerprint()[1]
    said = {name: logits_of(engine, PROMPTS[1], name or None) for name in ROWS}
    names = list(said)
    for number, name in enumerate(names):
        for other in names[:number]:
            assert (said[name] - said[other]).abs().max() > 0.05, (name, other)


def test_alone_beside_one_of_its_kind_joining_and_leaving_each_says_what_peft_says(engine, world):
    """Batches of one kind take other branches than mixed ones; of fewer rows with every step each keeps its own."""
    alone = ("", "lora", "dora", "ia3-qkv-in", "patterns", "prefix", "deep", "prompt", "ptuning", "bottleneck-odd")
    for name in alone:
        as_peft_says(engine, world, [row_of(name)])
    pairs = [("dora", "dora-some"), ("ia3", "ia3-up"), ("lora", "one-layer"), ("ia3", ""), ("dora", "ia3-qkv-in")]
    pairs += [("prefix", "prefix-long"), ("prompt", ""), ("ptuning", "deep")]
    pairs += [("bottleneck", "bottleneck-gelu"), ("bottleneck", ""), ("bottleneck-odd", "dora")]
    for pair in pairs:
        as_peft_says(engine, world, [row_of(name) for name in pair])
    names = ["ia3", "prefix", "dora", "bottleneck", "", "prompt", "lora", "bottleneck-gelu", "patterns", "ptuning"]
    names += ["qlora", "deep"]
    as_peft_says(engine, world, [row_of(name, 1 + number) for number, name in enumerate(names)])


def test_a_prompt_longer_than_a_chunk_stands_after_virtual_tokens(engine, world):
    assert len(LONG) > PREFILL_CHUNK
    rows = [Row(LONG, name, Sampling(max_tokens=6)) for name in (None, *VIRTUAL, "bottleneck", "lora")]
    as_peft_says(engine, world, rows)
    assert {state.prompt_tokens for state in run(engine, rows)} == {len(LONG)}, "the text's, not the adapter's"


def test_virtual_tokens_take_room_in_the_bases_context(engine):
    prompt = "x" * 1000
    for name in (None, *VIRTUAL):
        lead = VIRTUAL[name][1]["num_virtual_tokens"] if name else 0
        before = f", the adapter puts {lead} before it" if name else ""
        with pytest.raises(InputError, match=f"The prompt is 1000 tokens{before} and .* this base holds 1024"):
            run(engine, [Row(prompt, name, Sampling(max_tokens=25 - lead))])
        state = run(engine, [Row(prompt, name, Sampling(max_tokens=24 - lead, ignore_eos=True))])[0]
        assert state.completion_tokens == 24 - lead, "the last place too"


def test_virtual_tokens_take_no_slot_and_the_same_prefix_is_read_once_behind_the_same_adapter_only(fast, world):
    slots = llama(fast).scheduler.slots
    run(fast, [Row("Hello", name, Sampling(max_tokens=3)) for name in (None, *VIRTUAL)])
    assert slots.bytes == 0
    run(fast, [Row("Hello", "bottleneck", Sampling(max_tokens=3))])
    assert slots.bytes > 0
    scheduler, start = llama(fast).scheduler, LONG[:100]
    for name in (*VIRTUAL, "lora"):
        before = scheduler.cached_tokens
        rows = [Row(f"{start} ending {n}", name, Sampling(max_tokens=4)) for n in range(3)]
        as_peft_says(fast, world, rows)
        assert scheduler.cached_tokens - before >= 2 * 100, "two of three were copied"
        again = scheduler.cached_tokens
        as_peft_says(fast, world, rows[:1])
        assert scheduler.cached_tokens > again, "from what was kept after the rows were gone"
    before = scheduler.cached_tokens
    for name in (None, "bottleneck"):
        as_peft_says(fast, world, [Row(start, name, Sampling(max_tokens=4))])
    assert scheduler.cached_tokens == before
    for name in (*VIRTUAL, *VIRTUAL):  # shorter ones are filled, not copied
        as_peft_says(fast, world, [Row("x" * (PREFIX_MIN - 1), name, Sampling(max_tokens=5))])
    assert scheduler.cached_tokens == before


# -- scores ------------------------------------------------------------------------------------------------------------

SCORED = ("lora", "dora", "ia3", "prefix", "deep", "prompt", "ptuning", "bottleneck")


def test_every_kind_with_every_text_in_one_call_and_texts_longer_than_a_chunk_or_than_what_is_held(engine, world):
    rows = [ScoreRow(*text, kind or None, divergence=True) for text in TEXTS for kind in ("", *SCORED)]
    held_to_peft(engine, world, rows)
    assert engine.check_fingerprint()[1]
    rows = [ScoreRow("Now: ", RAIN, "prefix", True), ScoreRow("", RAIN), ScoreRow(RAIN[:280], "so.", "dora", True)]
    held_to_peft(engine, world, rows)


def test_scores_are_the_same_alone_or_beside_others_leave_replies_as_they_are_or_tell_why_there_are_none(engine):
    rows = [ScoreRow(*TEXTS[place % 4], kind, divergence=True) for place, kind in enumerate(SCORED)]
    for row, score in zip(rows, engine.score(rows), strict=True):
        alone = engine.score([row])[0]
        assert (alone.loss, alone.divergence) == pytest.approx((score.loss, score.divergence), abs=1e-5)
    row = Row("Hello there", "lora", Sampling(max_tokens=24, ignore_eos=True))
    alone = run(engine, [row])[0].tokens
    stream = engine.stream([row])
    next(stream)
    engine.score([ScoreRow(*TEXTS[0], "lora", True), ScoreRow(*TEXTS[2], "bottleneck", True)])
    states = list(stream)[-1]
    assert states[0].tokens == alone
    for row, words in (
        (ScoreRow("", "a"), "nothing to score"),
        (ScoreRow("", "a" * 1025), "this base holds 1024"),
        (ScoreRow("a", "b", "nobody"), "not attached"),
    ):
        refused(words, engine.score, [row])
    assert engine.score([]) == []


def test_rows_are_read_together_within_the_room():
    assert list(parts([10] * (TOGETHER + 1))) == [list(range(TOGETHER)), [TOGETHER]]
    assert list(parts([10, ROOM + 1, 10])) == [[0], [1], [2]]
    assert (list(parts([ROOM // 2, 5, 5])), list(parts([]))) == ([[0, 1], [2]], [])


def test_the_generic_path_reads_prompts_in_parts_and_gives_a_mask_only_where_there_is_padding(world):
    engine, seen = world.engine("hf"), []

    def look(module, args, given):
        mask = given["attention_mask"]
        seen.append(
            (given.get("input_ids", given.get("inputs_embeds")).shape[:2], None if mask is None else mask.shape)
        )

    engine.loaded.model.register_forward_pre_hook(look, with_kwargs=True)
    as_peft_says(engine, world, [row_of("lora")])
    assert {mask for _, mask in seen} == {None}, "nothing of one row is padding"
    as_peft_says(engine, world, [row_of(""), Row(ROWS[""], "lora", Sampling(max_tokens=TOKENS))])
    assert {mask for _, mask in seen} == {None}, "nor of rows of one length"
    engine.backend.prefill_tokens = 24
    seen.clear()
    names = ("", "lora", "dora", "ptuning", "bottleneck")
    as_peft_says(engine, world, [row_of(name) for name in names])
    assert max(rows * columns for (rows, columns), _ in seen) <= 24
    assert all(mask is not None for _, mask in seen), "rows of several lengths"
    as_peft_says(engine, world, [Row(LONG, "prefix", Sampling(max_tokens=TOKENS))])
    engine.close()
