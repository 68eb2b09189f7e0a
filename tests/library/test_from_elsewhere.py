"""Adapters as other tools leave them: in caches and archives, with settings that only training or PEFT reads."""

import json
import os
from pathlib import Path

import pytest

from playground.library.archive import KEPT, pack
from playground.library.bases import BaseShapes
from playground.methods.config_rules import KEYS_LIMIT, value_by_name

from .conftest import (
    INNER,
    LAYERS,
    WIDTH,
    adapter,
    base_shapes,
    base_tensors,
    header,
    lora_config,
    lora_tensors,
    refused,
    safetensors,
)

MAPPING = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama", "unsloth_fixed": True}
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|down_proj)))"
)
MODULES = [f"model.layers.{i}.{end}" for i in range(LAYERS) for end in ("mlp.down_proj", "self_attn.q_proj")]


@pytest.fixture
def take(library, tmp_path):
    """Import an adapter with this config: (its card, the config that was kept)."""

    def imported(config, tensors=None, base=None):
        card = library.import_path(adapter(tmp_path / "a", config, tensors), base or base_shapes())
        return card, json.loads((card.path / "adapter_config.json").read_text())

    return imported


def test_what_unsloth_writes_is_imported_and_its_mapping_and_pattern_are_written_out(library, take):
    card, kept = take(lora_config(auto_mapping=MAPPING, target_modules=UNSLOTH, task_type=None, qalora_group_size=16))
    assert ("auto_mapping" in kept, kept["task_type"], kept["target_modules"]) == (False, "CAUSAL_LM", MODULES)
    assert [note.split(" is ")[0] for note in card.notes] == ["auto_mapping", "the pattern for target_modules"]
    assert library.get(card.id).notes == card.notes


@pytest.mark.parametrize(("way", "more"), [("orthogonal", None), ("eva", {"rho": 2.0})])
def test_a_way_to_begin_that_leaves_the_base_alone_is_left_out(take, way, more):
    card, kept = take(lora_config(init_lora_weights=way, eva_config=more))
    assert (kept["init_lora_weights"], kept.get("eva_config") or None) == (True, None)
    assert way in card.notes[0]


TEXT = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Answer:", "tokenizer_kwargs": {"a": True}}
NAMED = {"prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": "meta-llama/Llama-3.2-1B"}
UNUSED = dict.fromkeys(("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"))


@pytest.mark.parametrize(("held", "noted"), [(TEXT, True), (NAMED, True), (UNUSED, False)])
def test_prompt_tuning_is_imported_without_the_text_and_tokenizer_that_it_began_with(take, held, noted):
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, "prompt_tuning_init": "RANDOM", **held}
    card, kept = take(config, {"prompt_embeddings": (5, WIDTH)})
    assert (kept["prompt_tuning_init"], UNUSED.keys() & kept.keys(), bool(card.notes)) == ("RANDOM", set(), noted)


DEEPER = "it covers 2 layers, this base has 3"
IA3 = {f"base_model.model.{name}.ia3_l": (1, INNER) if name.endswith("down_proj") else (WIDTH, 1) for name in MODULES}
IA3_TARGETS = [
    (".*(q_proj|down_proj)", {"feedforward_modules": ["down_proj"]}),
    (["q_proj", "down_proj"], {}),
    (["q_proj", "down_proj"], {"feedforward_modules": ["down_proj"], "exclude_modules": ".*v_proj"}),
    ("all-linear", {"exclude_modules": ".*k_proj"}),
]


@pytest.mark.parametrize(("targets", "more"), IA3_TARGETS)
def test_an_ia3s_patterns_are_written_out_for_peft_and_say_how_deep_the_base_must_be(take, targets, more):
    config = {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": ".*down_proj", **more}
    _, kept = take(config, IA3)
    config_of_peft = pytest.importorskip("peft").IA3Config(**kept)
    assert config_of_peft.target_modules == set(MODULES)
    assert config_of_peft.feedforward_modules == {name for name in MODULES if name.endswith("down_proj")}
    if "exclude_modules" not in more:
        refused(DEEPER, take, config, IA3, base_shapes(layers=3))


def test_patterns_are_written_out_as_peft_reads_them(take):
    alphas = {"layers.1.mlp.down_proj": 3, "^down_proj": 9, "(q.proj)": 5}
    ranks = {"q_proj": 8, "down_proj": 2}
    tensors = {name: shape for end, rank in ranks.items() for name, shape in lora_tensors(rank).items() if end in name}
    _, kept = take(lora_config(rank_pattern={r".*\.q_proj": 8, "down_proj": 2}, alpha_pattern=alphas), tensors)
    assert kept["rank_pattern"] == {name: ranks[name.rpartition(".")[2]] for name in MODULES}
    assert kept["alpha_pattern"] == {MODULES[1]: 5, MODULES[3]: 5, MODULES[2]: 3}


PATTERNS = {
    **{"(?:(?:.*?)*?)*?q": "takes more than 1 s to match", "x" * 3000: "longer than 2,000 characters"},
    **dict.fromkeys(("a{30000000}", "((a{99}){99}){99}"), "repeats more than 1,000 times"),
    **dict.fromkeys(("(unclosed", "q_proj{e}"), "cannot be read"),
    r".*\.q_proj": "which its target_modules does not match",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_does_not_do_is_refused_in_words(library, take, pattern):
    refused(PATTERNS[pattern], take, lora_config(target_modules=pattern))
    assert library.list() == []


@pytest.mark.parametrize("targets", ["all-linear", ".*_proj", UNSLOTH, ["q_proj", "down_proj"]])
@pytest.mark.parametrize("said", [{"num_hidden_layers": LAYERS}, {"text_config": {"num_hidden_layers": LAYERS}}])
def test_targets_say_how_deep_the_base_is_but_for_other_towers_and_layers_that_no_model_loads(take, targets, said):
    tower = {f"visual.blocks.{i}.attn.q_proj.weight": (WIDTH, WIDTH) for i in range(4)}
    base = BaseShapes({**base_tensors(layers=LAYERS + 1), **tower}, said)
    assert (base.layers, take(lora_config(target_modules=targets), base=base)[0].method) == (LAYERS, "lora")
    refused(DEEPER, take, lora_config(target_modules=targets), base=BaseShapes(base.shapes))


def test_tables_of_patterns_are_short_and_names_stay_one_however_many_layers_there_are(take):
    ends, alphas = ["gate_proj", "up_proj"], {"gate_proj": 32, "up_proj": 16}
    layers = [f"model.layers.0.mlp.experts.{number}.{end}" for number in range(600) for end in ends]
    tensors = {f"base_model.model.{name}.lora_{part}.weight": (4, 4) for name in layers for part in "AB"}
    experts = BaseShapes({f"{name}.weight": (4, 4) for name in layers}, {})
    assert take(lora_config(target_modules=ends, alpha_pattern=alphas), tensors, experts)[1]["alpha_pattern"] == alphas
    names = {f"model.layers.{i}.mlp.down_proj": 16 for i in range(KEYS_LIMIT)}
    assert value_by_name("alpha_pattern", names, MODULES) == {MODULES[0]: 16, MODULES[2]: 16}
    many = [f"model.layers.{i}.x" for i in range(3000)]
    refused("for 3,000 layers", value_by_name, "alpha_pattern", names, many)
    for table in ({f"layer{i}.x": 16 for i in range(2500)}, {f".*{i}_proj": 16 for i in range(51)}):
        keys = rf"alpha_pattern in adapter_config.json has {len(table):,} keys"
        refused(keys, take, lora_config(alpha_pattern=table))


MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 20.0}, "model": "mlx-community/small-4bit"}
MLX_TENSORS = {f"{MODULES[0]}.lora_a": (INNER, 4), f"{MODULES[0]}.lora_b": (4, WIDTH)}
OF_MLX = [  # (changes of the config, of the tensors, why it is refused)
    ({}, {}, ""),
    ({"fine_tune_type": "full"}, {}, "MLX's full fine-tune, which holds whole layers. Fuse it"),
    ({"lora_parameters": {"rank": 4}}, {}, "its lora_parameters name no scale"),
    ({"lora_parameters": {"rank": 4, "scale": 10.0, "alpha": 16}}, {}, "name an alpha, by which mlx-lm scaled before"),
    ({}, {"model.embed_tokens.lora_a": (32, 4)}, "holds model.embed_tokens.lora_a of shape .* on linear layers"),
    ({}, {f"{MODULES[0]}.lora_a": (6, INNER, 4)}, "LoRA and DoRA on linear layers can be taken"),
    ({}, {f"{MODULES[1]}.lora_a": (WIDTH, 2)}, "has 2 ranks"),
    ({}, {f"{MODULES[0]}.lora_b": (4, WIDTH + 1)}, "another base: the output of layer"),
    ({"model": "https://evil"}, {}, "never an address"),
]


@pytest.mark.parametrize(("config", "tensors", "why"), OF_MLX)
def test_what_mlx_saves_is_turned_into_pefts_layout_or_refused_with_the_reason(library, tmp_path, config, tensors, why):
    folder = adapter(tmp_path / "a", MLX | config)
    (folder / "adapter_model.safetensors").unlink()
    safetensors(folder / "adapters.safetensors", header(MLX_TENSORS | tensors))
    if why:
        refused(why, library.import_path, folder, base_shapes())
        return
    card = library.import_path(pack(folder, tmp_path / "a.zip"), base_shapes())
    kept = json.loads((card.path / "adapter_config.json").read_text())
    assert (kept["r"], kept["lora_alpha"], kept["target_modules"]) == (4, 80, MODULES[:1])
    assert {path.name for path in card.path.iterdir()} == set(KEPT)
    assert card.notes == ("MLX's layout is turned into PEFT's: 1 layer of rank 4, with the scale 20",)


def test_a_copy_of_the_bases_own_embeddings_is_left_out_and_others_are_refused(library, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    embeddings, head = ("model.embed_tokens", "lm_head")
    safetensors(base / "model.safetensors", header(base_tensors()))
    shapes, copy = BaseShapes.from_folder(base), {f"base_model.model.{head}.base_layer.weight": (32, WIDTH)}
    folder = adapter(tmp_path / "a", tensors=lora_tensors() | copy)
    assert library.import_path(folder, shapes).notes[0].startswith(f"the copy of the base's own {head} is left out")
    fields = header(lora_tensors() | copy)
    ones = b"\x01" * max(about["data_offsets"][1] for about in fields.values())
    safetensors(folder / "adapter_model.safetensors", fields, ones)
    refused("they were trained with it", library.import_path, folder, shapes)
    more, fewer = (lora_tensors() | {f"base_model.model.{embeddings}.weight": (rows, WIDTH)} for rows in (64, 31))
    assert library.import_path(adapter(tmp_path / "b", tensors=more), shapes).notes, "rows of padding"
    refused("31 rows, this base has 32", library.import_path, adapter(tmp_path / "c", tensors=fewer), shapes)


TABLES = '{"a":' * 900 + "false" + "}" * 900
HOSTILE = {  # why it is refused -> what the config's text becomes
    r"holds what no JSON may \(maximum recursion|x is {'a'": lambda text: f'{text[:-1]}, "x": {TABLES}}}',
    r"holds what no JSON may \(Out of range": lambda text: text.replace('"lora_alpha": 8', '"lora_alpha": 1e999'),
    "holds what no JSON may .*surrogates": lambda text: text.replace("somebody", r"\ud800"),
    "holds what no JSON may .*can't encode": lambda text: rf'{text[:-1]}, "\udcff": 1}}',
    "not readable JSON .*recursion": lambda text: "[" * 100_000 + "]" * 100_000,
    "not readable JSON .*4300 digits": lambda text: text.replace('"r": 4', f'"r": 1{"0" * 5000}'),
    "not readable JSON .*invalid start byte": lambda text: b"\x80\x04\x95" + text.encode(),
    "not readable JSON .*can't decode": lambda text: text.encode("utf-16"),
    "adapter_config.json in a is a pointer, not the file": lambda text: "version https://git-lfs.github.com/spec/v1",
    "not readable JSON .*NaN": lambda text: text.replace("8", "NaN"),
    "rank 4 in layer .* its config says 8": lambda text: text[:-1] + ', "r": 8}',
    "target_modules does not match": lambda text: text.replace('"down_proj"', '"k_proj"'),
    "which its target_modules does not match": lambda text: text.replace('["q_proj", "down_proj"]', "[]"),
    "it must be a list of module names": lambda text: text.replace('["q_proj"', '["../q", "q_proj"'),
    "must be the name of a base, never an address": lambda text: text.replace("somebody/small", "file://x"),
    "trust_remote_code is True": lambda text: text[:-1] + ', "trust_remote_code": true}',
    "runtime_config is": lambda text: text[:-1] + ', "runtime_config": {"ephemeral_gpu_offload": true}}',
}


@pytest.mark.parametrize("why", HOSTILE)
def test_a_hostile_config_is_refused_in_words_and_nothing_stays(library, own, tmp_path, why):
    folder = adapter(tmp_path / "a")
    changed = HOSTILE[why]((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    refused(why, library.import_path, folder, base_shapes())
    assert library.list() == list((own / ".staging").iterdir()) == []


def test_known_files_that_are_no_files_and_weights_without_end_are_refused_at_once(library, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = adapter(tmp_path / name[:12])
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(f"{name} is no regular file", library.import_path, folder, base_shapes())
    many = {f"base_model.model.m{number}.lora_A.weight": (0,) for number in range(90_000)}
    folder = adapter(tmp_path / "many", tensors=many)
    refused(r"its header claims \d+ bytes", library.import_path, folder, base_shapes())
    norm = {f"base_model.model.model.norm.lora_{part}.weight": (4, 4) for part in "AB"}
    targets = lora_config(target_modules=["q_proj", "down_proj", "norm"])
    folder = adapter(tmp_path / "norm", targets, lora_tensors() | norm)
    refused("adapts model.norm, which is no linear layer of this base", library.import_path, folder, base_shapes())


def test_files_beside_are_named_and_never_opened(library, tmp_path):
    """They are pipes here: whoever opened one would wait for ever."""
    folder = adapter(tmp_path / "out", run={"name": "Ward"})
    for name in ("training_args.bin", "optimizer.pt", "train.py", "rng_state.pth"):
        os.mkfifo(folder / name)
    (folder / "latest").symlink_to("/etc")
    (folder / "itself").symlink_to("itself")
    adapter(folder / "checkpoint-20")
    for number in range(90):
        (folder / "checkpoint-20" / f"{number}.bin").touch()
    card = library.import_path(folder, base_shapes())
    assert {path.name for path in card.path.iterdir()} == set(KEPT)
    others = "checkpoint-20/, itself, latest/, optimizer.pt, rng_state.pth, train.py, training_args.bin"
    assert card.notes == (f"left where it was: {others}",)
    assert "import_notes" not in json.loads((library.export(card.id, tmp_path / "again") / "run.json").read_text())


def test_an_adapter_in_a_folder_below_is_found_and_several_are_named(library, tmp_path):
    adapter(tmp_path / "out" / "checkpoint-20")
    os.mkfifo(tmp_path / "out" / "trainer.pt")
    assert library.import_path(tmp_path / "out", base_shapes()).method == "lora"
    adapter(tmp_path / "out" / "checkpoint-40")
    several = r"are 2 adapters in it: checkpoint-20, checkpoint-40. Name one of them"
    refused(several, library.import_path, tmp_path / "out", base_shapes())


def cached(root, name="models--somebody--small"):
    """A hub cache's snapshot of an adapter: links into the blobs beside."""
    snapshot, blobs = root / name / "snapshots" / ("ab" * 20), root / name / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(adapter(root / f"of-{name}").iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


@pytest.mark.parametrize("up", [0, 2])
def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(library, tmp_path, up):
    snapshot = cached(tmp_path)
    card = library.import_path((snapshot, *snapshot.parents)[up], base_shapes())
    assert not any(path.is_symlink() for path in card.path.iterdir())


def test_a_link_never_leads_out_of_what_was_named(library, tmp_path):
    snapshot, other = cached(tmp_path), cached(tmp_path, "models--somebody--else")
    whole, secret = adapter(tmp_path / "whole", run={"name": "Ward"}), tmp_path / "secret.json"
    secret.write_text("{}")
    for place, target in (
        (snapshot / "adapter_config.json", other.parent.parent / "blobs" / "0"),
        *((folder / "adapter_config.json", secret) for folder in (snapshot, adapter(tmp_path / "linked"))),
        *((whole / name, secret) for name in ("README.md", "tokenizer.json")),
        (whole / "run.json", tmp_path / "not-there"),
    ):
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        out = "a link that leads out of|a link to a file that is not there"
        refused(out, library.import_path, place.parent, base_shapes())
    inner = adapter(tmp_path / "named" / "inner")
    (tmp_path / "named" / "tree").symlink_to(inner, target_is_directory=True)
    assert library.import_path(tmp_path / "named", base_shapes()).method == "lora"
