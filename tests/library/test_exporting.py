"""Merged models, GGUF files and blends say what the adapters on their base say."""

import json
import math
import shutil
from dataclasses import replace
from functools import cache

import pytest

from playground.errors import InputError
from playground.library.adapters import read_card
from playground.library.exporting import TARGETS, blend, go_template, hand_over, laid_over, merge, run
from playground.library.gguf_file import check_gguf, write_gguf

from .conftest import refused

IDS = [[40, 300, 902, 7, 90, 15]]


def logits(folder, adapter=None):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


def small_model(family, tiny_base, folder):
    """Random, with the tokenizer of the tiny base."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    room = len(tokenizer) + 16  # transformers' class for Qwen2 adds tokens of its own
    sizes = {"vocab_size": room, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128 if family == "Qwen3" else 16}
    rest = {"tie_word_embeddings": True, "max_position_embeddings": 256, "initializer_range": 0.2}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, **rest, sliding_window=None)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    return small_model("Llama", tiny_base, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def loras(base, make_lora):
    """(whether the first, and the second, is rsLoRA) -> two adapters of unlike ranks with a record of their rows."""

    @cache
    def make(first=False, second=False):
        folders = [make_lora(11, 4, base, use_rslora=first), make_lora(12, 8, base, use_rslora=second)]
        for folder, letters in zip(folders, ("ca", "ab"), strict=True):
            rows = [letter * 16 for letter in letters]
            about = {"schema": 1, "name": folder.name, "row_hashes": rows, "sketches": rows}
            (folder / "run.json").write_text(json.dumps(about))
        return [read_card(folder) for folder in folders]

    return make


def test_a_merged_model_and_its_gguf_file_answer_as_the_adapter_on_its_base(base, loras, tmp_path):
    """``run`` itself compares the file's tokens and logits with the merged model's."""
    phases = []
    adapter, work = loras()[0].path, tmp_path / "work"
    work.mkdir()
    run(adapter, base, work, "gguf", tmp_path / "m.gguf", lambda phase, at: phases.append((at, phase)))
    assert phases == sorted(phases)
    merged = logits(work / "merged")
    assert float((merged - logits(base, adapter)).abs().max()) < 1e-4
    assert float((merged - logits(base)).abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Mistral"])
def test_other_families_as_gguf(tiny_base, tmp_path, family):
    model = small_model(family, tiny_base, tmp_path / "model")
    write_gguf(model, tmp_path / "m.gguf", "m")
    assert check_gguf(model, tmp_path / "m.gguf") < 0.05


def weights(file):
    """Name -> the numbers of a GGUF file, and its fields."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(file)
    return {one.name: dequantize(one.data, one.tensor_type) for one in reader.tensors}, reader.fields


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_an_adapter_as_gguf_adds_to_the_bases_file_what_the_merged_one_holds(base, make_lora, tmp_path, options):
    """In the order of rows that llama.cpp keeps, and with its scale alpha / rank whatever scaled the LoRA."""
    folder = make_lora(21, 4, base, **options)
    work = tmp_path / "work"
    work.mkdir()
    hand_over(read_card(folder), base, work, "llama.cpp", tmp_path / "out", lambda *said: None)
    names = {file.name.removeprefix(folder.name) for file in (tmp_path / "out").iterdir()}
    assert names >= {"-f16.gguf", "-q8_0.gguf", "-adapter.gguf", "base-f16.gguf", "README.md"}
    (below, _), (merged, _), (eight, _), (adapter, said) = (
        weights(tmp_path / "out" / name)
        for name in ("base-f16.gguf", *(f"{folder.name}-{kind}.gguf" for kind in ("f16", "q8_0", "adapter")))
    )
    (alpha,) = said["adapter.lora.alpha"].parts[-1]
    changed = 0
    for name, weight in merged.items():
        change = 0.0
        if (a := adapter.get(f"{name}.lora_a")) is not None:
            b = adapter[f"{name}.lora_b"]
            change, changed = alpha / a.shape[0] * (b @ a), changed + 1
            assert abs(change).max() > 0.01
        assert abs(below[name] + change - weight).max() < 0.01
        assert abs(eight[name] - weight).max() <= abs(weight).max() / 127
    assert changed == 14


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n"
    "{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
BY_PLACE = "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}"


def test_a_chat_template_is_told_in_gos_syntax_or_not_at_all(tiny_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    found = go_template(tokenizer)
    turn = '{{ %s eq .Role "%s" }}<|im_start|>%s\n{{ .Content }}<|im_end|>\n'
    turns = zip(("if", "else if", "else if"), *(("system", "user", "assistant"),) * 2, strict=True)
    body = "".join(turn % one for one in turns)
    assert found.text == "{{ range .Messages }}" + body + "{{ end }}{{ end }}<|im_start|>assistant\n"
    assert (found.system.startswith("You are a helpful AI assistant named SmolLM"), found.strips) == (True, False)
    tokenizer.chat_template = LLAMA3
    found = go_template(tokenizer)
    assert found.text.startswith('<|im_start|>{{ range .Messages }}{{ if eq .Role "system" }}<|start|>system<|end|>')
    assert (found.system, found.strips) == ("", True)
    tokenizer.chat_template = BY_PLACE
    assert go_template(tokenizer) is None


def test_what_a_server_cannot_lay_over_is_merged_or_refused_and_says_so(base, make_lora, tmp_path):
    plain, dora = (read_card(make_lora(seed, 4, base, use_dora=seed == 23)) for seed in (22, 23))
    assert (laid_over(plain), laid_over(replace(plain, kind="full"))) == ("", "it is a whole model")
    assert "dora" in laid_over(dora)
    for card, to in ((plain, "vllm"), (dora, "vllm"), (replace(plain, method="prefix"), "endpoint")):
        out, work = tmp_path / f"{card.method}-{to}", tmp_path / f"work-{card.method}"
        work.mkdir()
        hand_over(card, base, work, to, out, lambda *said: None)
        readme = (out / "README.md").read_text()
        if card is dora:
            assert "merged into its base, since it is dora" in readme
            assert (out / card.id / "model.safetensors").exists()
            continue
        config = json.loads((out / "adapters" / card.id / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"] == str(base)) is (to == "vllm") or to == "endpoint"
        assert ("--lora-modules" in readme, "lora_filesystem_resolver" in readme) == (to == "vllm",) * 2
    for to in TARGETS[:3]:
        asked = (replace(plain, method="prefix"), base, tmp_path, to, tmp_path / "no", lambda *said: None)
        refused(r"cannot serve .* \(prefix\).*--to endpoint", hand_over, *asked, error=InputError)


def changes(folder):
    """What an adapter adds to each weight: scale * B A; the scale of rsLoRA is alpha / sqrt(rank)."""
    from safetensors.torch import load_file

    there = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    modules = {name.rsplit(".", 2)[0] for name in there}
    return {module: scale * there[f"{module}.lora_B.weight"] @ there[f"{module}.lora_A.weight"] for module in modules}


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, True), (True, False), (False, True)])
def test_a_linear_blend_is_the_weighted_sum_whatever_the_ranks_and_scales(base, loras, tmp_path, first, second):
    pair = loras(first, second)
    blend(pair, [0.7, -0.4], "linear", base, tmp_path, "Both", "local")
    found, one, other = changes(tmp_path), changes(pair[0].path), changes(pair[1].path)
    for module, ours in found.items():
        assert float((ours - 0.7 * one[module] + 0.4 * other[module]).abs().max()) < 1e-5
    record = json.loads((tmp_path / "run.json").read_text())
    parts = [(part["sha256"], part["weight"]) for part in record["blended_from"]]
    assert parts == [(pair[0].sha256, 0.7), (pair[1].sha256, -0.4)]
    assert record["row_hashes"] == ["a" * 16, "b" * 16, "c" * 16], "the rows of all its parts"
    assert record["sketches"] == record["row_hashes"]
    assert (record["rows_known"], "prompt_hashes" in record) == (True, False), "no part tells its prompts"


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_other_ways_make_an_adapter_that_peft_loads_and_the_same_again(base, loras, tmp_path, how):
    parts = [replace(card, path=shutil.copytree(card.path, tmp_path / card.id)) for card in loras()]
    for part in parts:
        (part.path / "run.json").unlink()
    for name in "ab":
        (tmp_path / name).mkdir()
        blend(parts, [0.5, 0.5], how, base, tmp_path / name, "Both", "local")
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert float((logits(base, tmp_path / "a") - logits(base)).abs().max()) > 1e-4
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (record["row_hashes"], record["rows_known"]) == ([], False), "its parts have no record"


def test_what_cannot_be_written_or_blended_is_refused_in_words(base, loras, tmp_path):
    (tmp_path / "config.json").write_text((base / "config.json").read_text().replace("Llama", "GPT2"))
    one, other = loras()
    weights = [1.0, 1.0]
    for says, act, *asked in (
        ("GPT2ForCausalLM cannot be written as GGUF", write_gguf, tmp_path, tmp_path / "m.gguf", "m"),
        (r"\(prefix\).*cannot be merged", merge, replace(one, method="prefix"), base, tmp_path / "merged"),
        ("takes 2 to 6 adapters; 1 were named", blend, [one], [1.0], "linear", base, tmp_path, "Both", "local"),
        ("linear, ties, dare", blend, [one, other], weights, "slerp", base, tmp_path, "Both", "local"),
        ("from -10 to 10", blend, [one, other], [1.0, math.nan], "linear", base, tmp_path, "Both", "local"),
    ):
        refused(says, act, *asked, error=InputError)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
