"""Every family, on its path: rows of a batch say what PEFT and generate say alone; half precision and 4 bits too."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling, ScoreRow
from playground.errors import AdapterError, BaseUnavailableError
from playground.library.adapters import AdapterLibrary
from playground.library.bases import BaseShapes
from playground.library.files import file_fingerprint
from tests.engine import models
from tests.engine.models import World, attach, ids_of, logits_of, run, save_adapter
from tests.refused import refused

LLAMA = {"llama", "llama-bias", "llama-rope", "qwen2", "qwen3", "mistral"}
WHY = {"qwen2-window": "sliding windows", "mistral-window": "sliding windows", "llama-yarn": "yarn position scaling"}
PROMPTS = ["One", "Hello there, my order has not arrived yet", "The report says", "1, 2, 3, 4, 5, "]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_family_says_in_one_batch_what_peft_says_one_by_one(family, tmp_path):
    targets, inner = models.IA3_ON.get(family.partition("-")[0], (None, None))
    feeds = {"target_modules": targets, "feedforward_modules": inner} if targets else {}
    kinds = {"lora": {}, "dora": {}, "ia3": feeds, "prompt": {}, "ptuning": {}}
    kinds |= {"bottleneck-houlsby": {}, "bottleneck": {"placement": "pfeiffer", "activation": "relu"}}
    if family != "lfm2":
        kinds |= {"prefix": {}, "deep": {}}
    world = World(tmp_path, family, kinds)
    engine = world.engine()
    assert engine.path == "llama" if family in LLAMA else engine.path.startswith("Hugging Face")
    assert WHY.get(family, family.partition("-")[0] if family not in LLAMA else "") in engine.path
    counts, names = (40, 24, 9, 32, *(8, 16, 9, 12) * 2), (None, *world.adapters)
    given = zip(PROMPTS * 3, names, counts, strict=False)
    rows = [Row(prompt, name, Sampling(max_tokens=tokens), logprobs=0) for prompt, name, tokens in given]
    for row, state in zip(rows, run(engine, rows), strict=True):
        expected = world.said(row.adapter, row.prompt, row.sampling.max_tokens)
        assert list(state.tokens) == expected.tokens
        assert models.furthest(state, expected.shares) < 1e-3
        if family != "phi3-longrope":  # there what was written before the turning point had other frequencies
            whole = models.at_once(world.truth(row.adapter), ids_of(engine, row.prompt), state.tokens)
            assert models.furthest(state, whole) < 1e-3
    texts = [*models.TEXTS[:3], ("A" * 9, "x" * (3 * models.WINDOW))]
    models.held_to_peft(engine, world, [ScoreRow(*text, kind, True) for text in texts for kind in (None, "lora")])
    assert engine.check_fingerprint()[1]


@pytest.mark.parametrize(
    ("family", "targets"),
    [("phi", ["q_proj", "lm_head"]), ("gpt2", ["c_attn", "lm_head"]), ("gemma", ["q_proj", "lm_head"])],
)
def test_an_adapter_on_the_head_is_imported_with_peft_s_copies_of_it_and_says_what_peft_says(family, targets, tmp_path):
    """Where the path carries adapters on any linear layer; on the others it is refused (services/test_chat)."""
    base, folder = models.save_base(family, tmp_path / "base"), tmp_path / "made"
    config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM")
    made = get_peft_model(models.load_base(base), config)
    models.draw(made, 1)
    made.save_pretrained(folder)  # with the head, which the adapter lies on
    library = AdapterLibrary(tmp_path / "own", tmp_path / "shipped")
    card = library.import_path(folder, BaseShapes.from_folder(base))
    assert card.notes == ("the copy of the base's own lm_head is left out of the weights",)
    engine = models.engine_with(base, {"mine": card.path})
    (state,) = run(engine, [Row(PROMPTS[1], "mine", Sampling(max_tokens=12))])
    said = models.said_by(models.with_adapter(models.load_base(base), folder), ids_of(engine, PROMPTS[1]), 12).tokens
    assert list(state.tokens) == said != models.said_by(models.load_base(base), ids_of(engine, PROMPTS[1]), 12).tokens


def test_what_a_family_has_no_keys_and_values_for_is_refused_in_words(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=1)).save_pretrained(tmp_path)
    models.byte_tokenizer().save_pretrained(tmp_path)
    refused("mamba models keep no keys and values", Engine, tmp_path, error=BaseUnavailableError)
    base = models.save_base("lfm2", tmp_path / "base")
    engine, prefix = Engine(base), save_adapter(base, tmp_path / "deep", "deep")
    refused("this base has layers that keep none", attach, engine, prefix, "deep", error=AdapterError)
    assert engine.attached() == {}


# -- half precision and 4 bits: the same formula -----------------------------------------------------------------------

ASKED = {"": "Hello there, my order", "lora": "One", "dora": "The report says that", "ia3": "1, 2, 3, 4"}
ASKING = [Row(prompt, name or None, Sampling(max_tokens=8), logprobs=0) for name, prompt in ASKED.items()]
NEAR = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.12}
"""Share of the largest logit by which a logit may be off."""


@pytest.fixture(scope="module", params=["llama-bias", "gemma3"])
def precise(request, tmp_path_factory):
    """One family of each path."""
    return World(tmp_path_factory.mktemp(request.param), request.param, {"lora": {}, "dora": {}, "ia3": {}})


@pytest.mark.parametrize("dtype", list(NEAR))
def test_a_precision_is_near_peft_in_the_same_and_near_fp32(precise, dtype):
    engine = precise.engine(dtype=dtype)
    assert (engine.loaded.dtype, {p.dtype for p in engine.loaded.weights.values()}) == (dtype, {dtype})
    for state in run(engine, ASKING):
        assert state.completion_tokens
        assert all(there.logprob <= 0 for there in state.logprobs), "finite numbers"
    for name, prompt in ASKED.items():
        here = logits_of(engine, prompt, name or None).float()
        assert torch.isfinite(here).all()
        for there in (dtype, torch.float32):
            logits = precise.logits(name, prompt, dtype=there)
            assert (here - logits).abs().max() < NEAR[dtype] * logits.abs().max(), (name, there)
    assert engine.check_fingerprint()[1]


def test_an_adapter_of_no_effect_is_told_from_one_with_effect_in_half_precision(precise, tmp_path):
    engine = precise.engine(dtype=torch.bfloat16)
    attach(engine, save_adapter(precise.base, tmp_path / "zero", "lora", 1, r=1, lora_alpha=1e-6), "tiny")
    assert engine.has_no_effect("tiny")
    assert not any(engine.has_no_effect(name) for name in precise.adapters)


@pytest.mark.parametrize("saved", [False, True], ids=["squeezed as it loads", "saved in 4 bits"])
def test_four_bits_equal_peft_on_the_same_four_bits(precise, saved, tmp_path):
    folder = precise.base
    if saved:
        folder = tmp_path / "packed"
        models.four_bits(precise.base).save_pretrained(folder)
        models.byte_tokenizer().save_pretrained(folder)
    engine = Engine(folder, quantised=not saved)
    assert engine.path == precise.engine().path, "only the products differ"
    before = engine.fingerprint
    for name, adapter in precise.adapters.items():
        attach(engine, adapter, name)
    if saved:
        assert before == file_fingerprint(folder), "the scales of the blocks count too"
    for row, state in zip(ASKING, run(engine, ASKING), strict=True):
        truth = models.with_adapter(models.four_bits(precise.base), precise.adapters.get(row.adapter or ""))
        expected = models.said_by(truth, ids_of(engine, row.prompt), 8)
        assert list(state.tokens) == expected.tokens
        assert models.furthest(state, expected.shares) < 1e-3
    assert engine.check_fingerprint()[:2] == (before, True), "nothing is packed anew as it runs"


@pytest.mark.parametrize("quantised", [False, True])
def test_the_fingerprint_sees_a_changed_weight_and_a_changed_scale_in_four_bits(precise, quantised):
    engine = Engine(precise.base, quantised=quantised)
    assert engine.fingerprint
    if quantised:
        packed = next(p for p in engine.loaded.weights.values() if getattr(p, "quant_state", None) is not None)
        packed.quant_state.state2.absmax[0] += 1
    else:
        engine.loaded.model.model.norm.weight.data[0] += 1
    assert not engine.check_fingerprint()[1]


def test_a_reply_ends_with_the_token_that_the_template_closes_an_answer_with(tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    torch.nn.init.zeros_(model.model.norm.weight)  # every token is as likely, so the first one is said, again and again
    first, template = tokenizer.convert_ids_to_tokens(0), "{% for m in messages %}{{ m.content }}FIRST\n{% endfor %}"
    tokenizer.chat_template = template.replace("FIRST", first)
    assert first not in (tokenizer.eos_token, "")
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path)
    (state,) = run(Engine(tmp_path), [Row("One", None, Sampling(max_tokens=5))])
    assert (state.finish, state.text) == ("stop", "")
