"""An adapter whose numbers overflow: refused, and where its activations do all the same, only its own rows end."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from playground.engine.engine import Engine
from playground.engine.llama_layout import LinearGroup, pack
from playground.engine.llama_memory import AdapterSlots
from playground.engine.llama_model import Segment
from playground.engine.load import ModuleWeights
from playground.engine.request import Row, Sampling
from playground.engine.scheduler import CapturedDecode
from playground.errors import AdapterError
from playground.library.adapters import AdapterLibrary
from tests.engine import models
from tests.engine.models import Again, attach, edited, llama, poison, run, save_adapters
from tests.refused import refused

KINDS = {
    **{kind: {} for kind in ("lora", "dora", "ia3", "prefix", "prompt", "ptuning")},
    "bottleneck": {"activation": "relu"},
}
HUGE, INF, NAN = 3e38, float("inf"), float("nan")
LONG = "Hello there, my order has not arrived yet and I would like to know"
ROWS = {
    "base": Row("The report says", None, Sampling(max_tokens=14, ignore_eos=True)),
    "good": Row("One", "good", Sampling(max_tokens=16, ignore_eos=True)),
    "bad": Row(LONG, "bad", Sampling(max_tokens=6, ignore_eos=True)),
}
engine = pytest.fixture(lambda path, base: Engine(base, hf=path == "hf"))


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """By kind, and for ``good`` and ``bad``: adapters that PEFT made."""
    kinds = {f"{kind}-{name}": options for kind, options in KINDS.items() for name in ("good", "bad")}
    folders = save_adapters(base, tmp_path_factory.mktemp("made"), kinds)
    return {(kind, name): folders[f"{kind}-{name}"] for kind in KINDS for name in ("good", "bad")}


def said(engine, *names):
    return [state.tokens for state in run(engine, [ROWS[name] for name in names])]


def alone_in(engine):
    """What the base and the sound adapter say, each by itself."""
    return {name: said(engine, name)[0] for name in ("base", "good")}


@pytest.mark.parametrize(("kind", "value"), [*zip(KINDS, itertools.cycle((NAN, INF, HUGE, 1e5)), strict=False)])
def test_an_adapter_with_such_numbers_is_refused_and_its_tensor_named(engine, made, kind, value, tmp_path):
    names = sorted(load_file(made[kind, "bad"] / "adapter_model.safetensors"))
    wrong = names[len(names) // 2]
    by = lambda name, t: torch.full_like(t, value) if name == wrong else t  # noqa: E731
    folder = edited(made[kind, "bad"], tmp_path / "bad", by)
    words = rf"bad holds .* in {wrong}, which is not a number that training makes"
    refused(words, attach, engine, folder, "bad", error=AdapterError)
    assert engine.attached() == {}
    library = AdapterLibrary(tmp_path / "own", tmp_path / "shipped")
    refused(rf"This adapter holds .* in {wrong}, which", library.import_path, folder, None, error=AdapterError)


def test_numbers_that_are_too_large_only_with_their_scale_are_refused(engine, base, made, tmp_path):
    weight = dict(engine.loaded.model.named_modules())["model.layers.0.self_attn.q_proj"].weight.detach()
    wide = weight.shape[0]
    options = {"target_modules": ["q_proj"], "r": wide, "lora_alpha": wide}
    dora = models.save_adapter(base, tmp_path / "made", "dora", 1, **options)
    away = {"q_proj.lora_A": torch.eye(wide), "q_proj.lora_B": -weight}  # W + BA = 0, whose norm DoRA divides by
    for folder, place, what, tensors, config in (
        (made["lora", "bad"], "mlp.up_proj", r"1\.64e\+04 %s \(lora_B times its scale\)", {}, {"lora_alpha": 65536}),
        (dora, "self_attn.q_proj", r"inf %s \(the scale of its output\)", away, {}),
    ):
        changed = tensors or {"up_proj.lora_B": torch.ones(96, 4)}

        def by(name, t, changed=changed):
            return next((to for part, to in changed.items() if "layers.0." in name and part in name), t)

        wrong = edited(folder, tmp_path / place, by, **config)
        words = "bad holds " + what % rf"in model\.layers\.0\.{place}"
        refused(words, attach, engine, wrong, "bad", error=AdapterError)


BESIDE = [*((kind, HUGE) for kind in KINDS), ("lora", -HUGE), ("bottleneck", -HUGE), ("ia3", INF), ("prefix", INF)]
BESIDE += [(kind, NAN) for kind in ("ia3", "prefix", "prompt", "ptuning")]


@pytest.mark.parametrize(("kind", "value"), BESIDE)
def test_the_others_write_what_they_write_alone_beside_it_and_after_it(base, engine, made, kind, value):
    """Both of one kind, to share slots, necks and the cache. Low-rank pairs that are not finite are refused above."""
    attach(engine, made[kind, "good"], "good")
    alone = alone_in(engine)
    attach(engine, made[kind, "bad"], "bad")
    poison(engine, made[kind, "bad"], value)
    for order in (["bad", "base", "good"], ["base", "bad", "good", "bad"], ["good", "base", "bad"]):
        states = run(engine, [ROWS[name] for name in order])
        for name, state in zip(order, states, strict=True):
            if name != "bad":
                assert (state.tokens, state.fault) == (alone[name], ""), order
            elif state.finish == "error":
                assert "bad makes numbers overflow" in state.fault
            else:  # finite all the same, where norms take everything to 0
                assert state.finish == "length"
        after = ("good", "base", "good")  # its places are used again
        assert said(engine, *after) == [alone[name] for name in after], order
    engine.detach("bad")
    assert said(engine, "base", "good", "base") == [alone["base"], alone["good"], alone["base"]]


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_row_that_is_stopped_leaves_nothing_behind(engine, made, kind):
    (alone,) = run(engine, [ROWS["base"]])
    attach(engine, made[kind, "bad"], "bad")
    poison(engine, made[kind, "bad"], HUGE)
    stream = engine.stream([ROWS["bad"], Row(LONG, None, Sampling(max_tokens=40))])
    next(stream)
    next(stream)
    stream.close()
    states = run(engine, [ROWS["base"], Row(LONG * 3, None, Sampling(max_tokens=30)), ROWS["base"]])
    assert states[0].tokens == states[2].tokens == alone.tokens


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_numbers_at_the_limit_are_taken(engine, made, kind, tmp_path):
    attach(engine, made[kind, "good"], "good")
    alone = alone_in(engine)
    attach(engine, edited(made[kind, "bad"], tmp_path / "bad", lambda name, t: torch.full_like(t, 4e3)), "bad")
    states = run(engine, [ROWS["bad"], ROWS["base"], ROWS["good"]])
    assert [state.tokens for state in states[1:]] == [alone["base"], alone["good"]]
    assert states[0].finish in ("length", "error")


def test_a_captured_step_selects_too(base, made):
    engine = Engine(base)
    path = llama(engine)
    for name in ("good", "bad"):
        attach(engine, made["lora", name], name)
    poison(engine, made["lora", "bad"], HUGE)
    steps, cache, adapters = CapturedDecode(path.model, Again), path.model.new_cache(), path.model.new_adapter_slots()
    slots = [adapters.acquire(path.scheduler.find(name)) for name in (None, "good", "bad")]
    path.model.prefill([Segment(row, [1, 2, 3], 0, slot) for row, slot in enumerate(slots)], cache, adapters)
    adapters.select(slots)
    together = steps.decode([4, 4, 4], [3, 3, 3], cache, adapters)[:2].clone()
    adapters.select(slots[:2])
    alone = path.model.decode([4, 4], [3, 3], cache, adapters)
    assert (together - alone).abs().max() < 1e-4


def test_the_slot_of_an_adapter_that_is_removed_is_emptied_when_its_last_row_ends():
    groups = [LinearGroup(("a", "b"), 3, (2, 2))]
    ones = {"a": ModuleWeights(torch.ones(1, 3), torch.ones(2, 1))}
    one, two = (pack(key, ones, groups, torch.ones(1)) for key in "12")
    adapters = AdapterSlots(groups, torch.float32, torch.device("cpu"))
    first, other = adapters.acquire(one), adapters.acquire(two)
    assert adapters.acquire(one) == first
    adapters.remove("1")
    adapters.release(first)
    assert [float(adapters.a[0].sum()), float(adapters.b[0].sum())] == [6, 4], "a row still uses it"
    adapters.release(first)
    assert [float(adapters.a[0].sum()), float(adapters.b[0].sum())] == [3, 2]
    adapters.select([other, None])
    y = torch.zeros(2, 4)
    adapters.selected.add(0, torch.ones(2, 3), y)
    assert y.tolist() == [[3, 3, 0, 0], [0, 0, 0, 0]]
    assert adapters.acquire(one) == first, "it may come back"
    adapters.select([first, other])
    adapters.release(other)
    adapters.remove("2")
    assert adapters.acquire(one) == first


def test_an_adapter_that_overflows_is_not_said_to_have_no_effect(engine, made):
    attach(engine, made["prefix", "bad"], "bad")
    poison(engine, made["prefix", "bad"], NAN)
    assert not torch.isfinite(models.logits_of(engine, "One", "bad")).all()
    assert not engine.has_no_effect("bad")
