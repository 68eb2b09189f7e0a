"""Adapters that come and go: the memory ceiling, rows under way, refusals, and that nothing is left behind."""

import gc
import json
import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file

from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, Sampling
from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from tests.engine import models
from tests.engine.models import attach, edited, logits_of, run, save_adapter
from tests.refused import refused

PROMPT = "The report says that nothing was found"


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """(seed, kind) -> an adapter's folder. One of a kind is made by PEFT, the others are it with other numbers."""
    root, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed, kind="lora"):
        if kind not in made:
            made[kind] = save_adapter(base, root / kind, kind, **({"r": 16} if kind == "wide" else {}))
        folder = root / f"{kind}-{seed}"
        if not folder.exists():
            draw = torch.Generator().manual_seed(seed)
            edited(made[kind], folder, lambda name, t: t * (0.5 + torch.rand(t.shape, generator=draw)))
        return folder

    return make


@pytest.fixture
def make(path, base):
    """An engine of this path with nothing attached."""
    return lambda **options: Engine(base, hf=path == "hf", **options)


def say(engine, adapter, tokens=8):
    return run(engine, [Row(PROMPT, adapter, Sampling(max_tokens=tokens, ignore_eos=True))])[0].text


@pytest.fixture
def one_bytes(make, folders):
    """What one adapter takes."""
    engine = make()
    attach(engine, folders(1), "one")
    return engine.decoder.held_bytes


def test_past_the_ceiling_the_least_recently_used_leave_and_come_back_by_themselves(make, folders, one_bytes):
    free, engine = make(), make(adapters_limit_bytes=int(3.5 * one_bytes))
    expected = {}
    for seed in range(1, 4):
        attach(free, folders(seed), f"a{seed}")
        expected[f"a{seed}"] = say(free, f"a{seed}")
        attach(engine, folders(seed), f"a{seed}")
    assert (list(engine.attached()), say(engine, "a1")) == (["a1", "a2", "a3"], expected["a1"])
    attach(engine, folders(4), "a4")
    assert (list(engine.attached()), list(engine.asleep())) == (["a3", "a1", "a4"], ["a2"])
    assert engine.decoder.held_bytes <= 3.5 * one_bytes
    assert say(engine, "a2") == expected["a2"], "asked for, it comes back"
    assert (list(engine.attached()), list(engine.asleep())) == (["a1", "a4", "a2"], ["a3"])
    assert not engine.has_no_effect("a3")
    assert engine.select_ms("a1") >= 0
    assert set(engine.attached()) | set(engine.asleep()) == {"a1", "a2", "a3", "a4"}
    engine.detach("a1")
    engine.detach(next(iter(engine.asleep())))
    for name in expected.keys() & engine.attached():
        assert say(engine, name) == expected[name]
    assert engine.check_fingerprint()[1]


def test_adapters_of_one_batch_stay_together_and_a_file_that_is_gone_is_told(make, folders, one_bytes, tmp_path):
    free, engine = make(), make(adapters_limit_bytes=int(1.2 * one_bytes))
    names = [attach(engine, folders(seed), f"a{seed}") for seed in range(1, 5)]
    assert list(engine.attached()) == ["a4"]
    rows = [Row(PROMPT, name, Sampling(max_tokens=8)) for name in names]
    together = [state.text for state in run(engine, rows)]
    for seed, text in zip(range(1, 5), together, strict=True):
        attach(free, folders(seed), f"a{seed}")
        assert text == say(free, f"a{seed}")
    engine = make(adapters_limit_bytes=int(1.2 * one_bytes))
    attach(engine, edited(folders(1), tmp_path / "moved"), "moved")
    attach(engine, folders(2), "a2")
    shutil.rmtree(tmp_path / "moved")
    refused("moved cannot be read", say, engine, "moved", error=AdapterError)
    assert say(engine, "a2")
    engine.detach("moved")
    refused("moved is not attached", say, engine, "moved", error=AdapterError)


def test_memory_comes_back_when_adapters_leave(make, folders):
    engine, kinds = make(), ("wide", "ia3", "bottleneck", "prefix", "prompt")
    attach(engine, folders(1), "narrow")
    narrow = engine.decoder.held_bytes
    for kind in kinds:
        before = engine.decoder.held_bytes
        attach(engine, folders(1, kind), kind)
        assert engine.decoder.held_bytes > before
    for name in kinds:
        engine.detach(name)
    assert engine.decoder.held_bytes <= 1.6 * narrow
    engine.detach("narrow")
    assert engine.decoder.held_bytes == 0


def finish(stream):
    return list(stream)[-1][0].text


OTHERS = {"taken": ("lora", "ia3", "wide", "bottleneck", "deep"), "joined": ("wide", "wide"), "evicted": ("lora",) * 4}
KEPT = {"replaced": ("lora", "ia3", "bottleneck", "prefix"), "taken": ("dora", "ia3", "bottleneck", "prompt")}
KEPT |= {"joined": ("lora", "dora"), "evicted": ("lora",)}


@pytest.mark.parametrize(("how", "kind"), [(how, kind) for how, kinds in KEPT.items() for kind in kinds])
def test_a_row_keeps_what_it_began_with(make, folders, one_bytes, how, kind):
    """While its adapter is replaced, detached and its place taken, joined by wider ones, or evicted for others."""
    engine = make(adapters_limit_bytes=int(1.2 * one_bytes) if how == "evicted" else None)
    attach(engine, folders(1, kind), "mine")
    undisturbed = say(engine, "mine", 100)
    stream = engine.stream([Row(PROMPT, "mine", Sampling(max_tokens=100, ignore_eos=True))])
    assert not any(next(stream)[0].finish for _ in range(3))
    if how == "replaced":
        attach(engine, folders(2, kind), "mine", "newer")
        assert say(engine, "mine", 100) != undisturbed
    elif how == "taken":
        engine.detach("mine")
        refused("mine is not attached", say, engine, "mine", error=AdapterError)
    for seed, other in enumerate(OTHERS.get(how, ()), 3):
        say(engine, attach(engine, folders(seed, other), f"{other}{seed}"), 3)
    assert ("mine" in engine.asleep()) is (how == "evicted")
    assert finish(stream) == undisturbed
    if how == "replaced":
        assert say(engine, "mine", 100) != undisturbed


def test_the_same_weights_with_other_settings_are_another_adapter(make, folders, tmp_path):
    engine, other = make(), edited(folders(1), tmp_path / "other", lora_alpha=24)
    for name, folder in (("one", folders(1)), ("other", other)):
        attach(engine, folder, name, "the same")
    rows = [Row(PROMPT, name, Sampling(max_tokens=8)) for name in ("one", "other")]
    assert [state.text for state in run(engine, rows)] == [run(engine, [row])[0].text for row in rows]
    assert (logits_of(engine, PROMPT, "one") - logits_of(engine, PROMPT, "other")).abs().max() > 0.05


def turned_away(engine, folder, words):
    """In these words, and nothing has changed."""
    there, held = engine.attached(), engine.decoder.held_bytes
    before = say(engine, None)
    with pytest.raises(AdapterError, match=words) as error:
        attach(engine, folder, "wrong")
    assert str(error.value).rstrip().endswith("."), "a sentence that says what to do"
    assert (engine.attached(), engine.decoder.held_bytes, say(engine, None)) == (there, held, before)
    refused("wrong is not attached", say, engine, "wrong", error=AdapterError)


def test_what_does_not_fit_is_refused_in_words(make, folders, tmp_path):
    engine, numbers = make(), count()

    def wrong(kind, by=lambda name, t: t, old="", new="", **more):
        path = edited(folders(1, kind), tmp_path / f"wrong{next(numbers)}", by) / "adapter_model.safetensors"
        save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()} | more, path)
        return path.parent

    deeper = wrong("lora", old="layers.1", new="layers.7")
    head = "base_model.model.lm_head"
    cuts = {"down.weight": (slice(None), slice(8)), "up.weight": (slice(8),), "up.bias": (slice(8),)}
    other = "trained on another base"
    wide = save_adapter(models.save_base("qwen3", tmp_path / "q"), tmp_path / "qa", "lora")
    half = wrong("lora", lambda name, t: None if "0.self_attn.q_proj.lora_B" in name else t)
    unbiased = wrong("bottleneck", lambda name, t: None if "1.mlp.down_proj.bottleneck_up.bias" in name else t)
    narrow = wrong("bottleneck", lambda name, t: next((t[c] for end, c in cuts.items() if name.endswith(end)), t))
    prefix, prompt = (wrong(kind, lambda name, t: t[:, : t.shape[1] * 15 // 16]) for kind in ("prefix", "prompt"))
    for folder, words in (
        (wide, f"{other}: .* is 64 -> 64 in the adapter, here it is 64 -> 32"),
        (deeper, f"{other}: model.layers.7.* no such layer"),
        (half, "lacks lora_B for layer model.layers.0.self_attn.q_proj"),
        (wrong("lora", **{f"{head}.weight": torch.zeros(2, 2)}), "lm_head.weight, which is no part of a LoRA adapter"),
        (wrong("lora", lambda name, t: t[:2] if "lora_A" in name else t), "are no pair of a rank"),
        (wrong("lora", **{f"{head}.base_layer.weight": torch.zeros(2)}), "carries weights of the base itself"),
        (wrong("ia3", lambda name, t: t.repeat(2, 2)), "an IA3 vector is"),
        (wrong("ia3", lambda name, t: t[:, :8] if t.shape[0] == 1 else t[:8]), other),
        (wrong("dora", lambda name, t: None if "magnitude" in name else t), "has a DoRA magnitude of shape None"),
        (wrong("dora", lambda name, t: t[:4] if "magnitude" in name else t), r"magnitude of shape \(4,\)"),
        (unbiased, "are no bottleneck"),
        (narrow, f"{other}: .* is any -> 8 in the adapter"),
        (prefix, f"{other}: its keys and values are 120 numbers wide, this base's 128"),
        (prompt, f"{other}: its embeddings are 60 .* 64"),
    ):
        turned_away(engine, folder, words)
    for kind, tokens in (("prefix", 500), ("prompt", 400)):
        by = lambda name, t: t.repeat(100, 1)  # noqa: E731
        many = edited(folders(1, kind), tmp_path / f"many{tokens}", by, num_virtual_tokens=tokens)
        turned_away(engine, many, f"{tokens} tokens before the text, and this base holds 256")


def test_what_cannot_be_read_is_refused_in_words(make, folders, tmp_path):
    engine = make()
    turned_away(engine, tmp_path / "nowhere", "nowhere cannot be read")
    weights, config = "adapter_model.safetensors", "adapter_config.json"
    whole = (folders(1) / weights).read_bytes()
    for name, file, content in (
        ("torn", weights, whole[: len(whole) // 2]),
        ("noise", weights, os.urandom(200)),
        ("half", config, b"{"),
        ("list", config, b"[]"),
    ):
        folder = edited(folders(1), tmp_path / name)
        (folder / file).write_bytes(content)
        turned_away(engine, folder, f"{name} cannot be read")
    pattern = "other's alpha_pattern in adapter_config.json"
    for changes, words in (
        ({"peft_type": "PREFIX_TUNING"}, "does not hold the virtual tokens that its config tells of"),
        ({"peft_type": "VERA"}, "VERA adapter; chatting runs LoRA"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "stacked by expert"),
        ({"lora_alpha": "much"}, "other's config is damaged"),
        ({"alpha_pattern": {"(": 3}}, rf"{pattern} holds the pattern \(, which cannot be read"),
        ({"alpha_pattern": {f"layer{n}.x": 3 for n in range(2500)}}, f"{pattern} has 2,500 keys"),
    ):
        turned_away(engine, edited(folders(1), tmp_path / "other", **changes), words)
        shutil.rmtree(tmp_path / "other")
    nothing = edited(folders(1), tmp_path / "nothing", lambda name, t: None)
    turned_away(engine, nothing, "holds no weights")
    broken = edited(folders(1), tmp_path / "broken", lambda name, t: t * float("nan") if "lora_B" in name else t)
    turned_away(engine, broken, "not a number")


def test_who_asks_does_not_wait_for_a_file_that_is_being_read(make, folders, tmp_path):
    engine, slow = make(), edited(folders(1), tmp_path / "slow")
    settings = (slow / "adapter_config.json").read_bytes()
    (slow / "adapter_config.json").unlink()
    os.mkfifo(slow / "adapter_config.json")  # whoever opens it waits for what is written below
    with ThreadPoolExecutor(1) as pool:
        attaching = pool.submit(attach, engine, slow, "slow")
        assert run(engine, [Row(PROMPT, None, Sampling(max_tokens=4))])[0].finish
        assert not attaching.done()
        with (slow / "adapter_config.json").open("wb") as out:  # opens when the other side has
            (slow / "plain").write_bytes(settings)
            os.replace(slow / "plain", slow / "adapter_config.json")
            out.write(settings)
        assert attaching.result(30) == "slow"
    assert list(engine.attached()) == ["slow"]


def test_an_adapter_with_another_tokenizer_is_refused_here_and_by_the_library(make, base, folders, tmp_path):
    engine, library, tokenizer = make(), AdapterLibrary(tmp_path / "own", tmp_path / "shipped"), models.byte_tokenizer()
    same, moved, more, added = (edited(folders(1), tmp_path / name) for name in ("same", "turned", "more", "added"))
    for folder in (same, moved):
        tokenizer.save_pretrained(folder)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(more)
    attach(engine, same, "same")
    turned_away(engine, more, "knows 260 tokens, this base knows 259 .'<tool>'")
    with pytest.raises(AdapterError, match="knows 260 tokens, this base knows 259"):
        library.import_path(more, BaseShapes.from_folder(base))
    assert (library.list(), library.import_path(same, BaseShapes.from_folder(base)).method) == ([], "lora")
    padded, tokenizer = edited(folders(1), tmp_path / "padded"), models.byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|PAD_TOKEN|>"})  # as trainers do where a base has none
    tokenizer.save_pretrained(padded)
    attach(engine, padded, "padded")
    assert "a padding token of its own" in library.import_path(padded, BaseShapes.from_folder(base)).notes[-1]
    for odd in ({"added_tokens": 5}, {"added_tokens": [{"content": ["x"], "id": 1}]}, {"model": {"vocab": [[1], 2]}}):
        (padded / "tokenizer.json").write_text(json.dumps(odd))
        turned_away(engine, padded, "another tokenizer")
    content = json.loads((moved / "tokenizer.json").read_text())
    content["model"]["vocab"] = {word: 255 - number for word, number in content["model"]["vocab"].items()}
    (moved / "tokenizer.json").write_text(json.dumps(content))
    turned_away(engine, moved, "another tokenizer: it knows 259 tokens, this base knows 259")
    (added / "added_tokens.json").write_text('{"<tool>": 259}')
    turned_away(engine, added, "knows 260 tokens, this base knows 259")
    (added / "added_tokens.json").write_text("no")
    turned_away(engine, added, "added_tokens.json in .* is not readable JSON")


def test_adapters_without_measurable_effect_are_flagged(make, folders, tmp_path):
    engine = make()
    none = {
        "zero": ("lora", lambda name, t: t * 0 if "lora_B" in name else t),
        "tiny": ("lora", lambda name, t: t * 1e-6 if "lora_B" in name else t),
        "fresh": ("bottleneck", lambda name, t: t * 0 if "bottleneck_up" in name else t),
        "ones": ("ia3", lambda name, t: torch.ones_like(t)),
    }
    for name, (kind, by) in none.items():
        attach(engine, edited(folders(1, kind), tmp_path / name, by), name)
        assert engine.has_no_effect(name), name
    for kind in ("lora", "ia3", "bottleneck", "prefix", "deep", "prompt", "ptuning"):
        attach(engine, folders(1, kind), kind)
        assert not engine.has_no_effect(kind), kind
    engine.detach("zero")
    refused("zero is not attached", engine.has_no_effect, "zero", error=AdapterError)


def tensor_bytes():
    gc.collect()
    there = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor and t.layout is torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in there}.values())


def rounds(engine, folders, numbers):
    """Attach, decode, replace, detach; every so often in the middle of a reply."""
    kinds = ("lora", "dora", "ia3", "wide", "bottleneck", "prefix", "prompt")
    for number in numbers:
        name = f"passing{number % 5}"
        engine.attach(AdapterFile(name, folders(number % 6, kinds[number % 7]), f"v{number}"))
        if number % 3:
            assert say(engine, name, 2) is not None
            engine.detach(name)
        else:
            rows = [Row(PROMPT, name, Sampling(max_tokens=6)), Row("One", None, Sampling(max_tokens=2))]
            stream = engine.stream(rows)
            next(stream)
            engine.detach(name)
            finish(stream) if number % 2 else stream.close()


@pytest.mark.parametrize("times", [14, pytest.param(1000, marks=pytest.mark.soak)])
def test_rounds_leave_nothing_behind(make, folders, times):
    engine = make()
    before_text, fingerprint = say(engine, None), engine.fingerprint
    rounds(engine, folders, range(14))
    settled = tensor_bytes()
    traced = []
    tracemalloc.start()
    try:
        for numbers in (range(14, 21), range(21, 14 + times)):
            rounds(engine, folders, numbers)
            gc.collect()
            traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert (engine.attached(), engine.decoder.held_bytes) == ({}, 0)
    assert traced[1] - traced[0] < 200_000 + 1000 * times, "what is kept for each version seen is a few bytes"
    assert tensor_bytes() - engine.cache_bytes <= settled + 4_000_000
    assert say(engine, None) == before_text
    assert engine.check_fingerprint()[:2] == (fingerprint, True)
