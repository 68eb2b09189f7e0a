from __future__ import annotations

import json
import os
import struct

import pytest

from playground.errors import AdapterError
from playground.library.safety import check_folder, refuse_names

from .conftest import INNER, WIDTH, a_run, adapter, base_shapes, header, lora_config, lora_tensors, safetensors


def test_a_sound_adapter_passes_with_and_without_a_base(tmp_path):
    folder = adapter(tmp_path / "a", run=a_run())
    check_folder(folder, None)
    check_folder(folder, base_shapes())


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "optimizer.pt", "x.pth", "x.PKL", "x.pickle", "last.ckpt", "x.bin ", "x.pt."]
)
def test_pickles_are_refused_by_name(tmp_path, name):
    folder = adapter(tmp_path / "a")
    (folder / "sub").mkdir()
    (folder / "sub" / name).touch()
    with pytest.raises(AdapterError, match="a pickle that can run code") as caught:
        check_folder(folder, None)
    assert name.strip() in str(caught.value)
    assert "delete that file" in str(caught.value)


def test_a_pickle_alone_is_to_be_exported_as_safetensors():
    with pytest.raises(AdapterError, match=r"adapter_model\.bin.*export the adapter as safetensors"):
        refuse_names(["adapter_config.json", "adapter_model.bin"])


@pytest.mark.parametrize("name", ["modeling.py", "run.sh", "lib.so", "setup.EXE", "book.ipynb"])
def test_programs_are_refused_by_name(name):
    with pytest.raises(AdapterError, match="a program"):
        refuse_names([name])


def test_links_executables_and_pipes_are_refused(tmp_path):
    folder = adapter(tmp_path / "a")
    link = folder / "notes.txt"
    link.symlink_to("/etc/passwd")
    with pytest.raises(AdapterError, match=r"notes\.txt, a link"):
        check_folder(folder, None)
    link.unlink()
    tool = folder / "tool"
    tool.touch(mode=0o755)
    with pytest.raises(AdapterError, match="tool, an executable"):
        check_folder(folder, None)
    tool.unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(AdapterError, match="neither a file nor a folder"):
        check_folder(folder, None)


def test_a_file_system_that_marks_everything_executable_does_no_harm(tmp_path):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_config.json").chmod(0o777)
    check_folder(folder, None)


def test_too_many_files(tmp_path):
    folder = adapter(tmp_path / "a")
    for i in range(70):
        (folder / f"{i}.txt").touch()
    with pytest.raises(AdapterError, match="more than 64 files"):
        check_folder(folder, None)


def test_says_what_is_missing_and_what_there_is(tmp_path):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing; there is: adapter_config\.json"):
        check_folder(folder, None)
    adapter(tmp_path / "b" / "checkpoint-10")
    with pytest.raises(AdapterError, match=r"folder inside it .checkpoint-10"):
        check_folder(tmp_path / "b", None)
    whole = tmp_path / "c"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="whole model"):
        check_folder(whole, None)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": NaN}', '{"r": ' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_a_config_that_is_no_json_object(tmp_path, text):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        check_folder(folder, None)


@pytest.mark.parametrize("dtype", ["F64", "U8", "I64"])
def test_weights_are_plain_floats(tmp_path, dtype):
    with pytest.raises(AdapterError, match=f"as {dtype}.*float32"):
        check_folder(adapter(tmp_path / "a", dtype=dtype), None)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_fine(tmp_path, dtype):
    check_folder(adapter(tmp_path / "a", dtype=dtype), base_shapes())


def test_an_adapter_of_a_wider_base_is_refused_by_width_and_told_what_it_needs(tmp_path):
    folder = adapter(tmp_path / "a", tensors=lora_tensors(width=16))
    with pytest.raises(AdapterError) as caught:
        check_folder(folder, base_shapes())
    said = str(caught.value)
    assert "trained on another base: layer model.layers.0.self_attn.q_proj is 16 wide, this base's is 8" in said
    assert "It needs somebody/small-base" in said
    check_folder(folder, None)
    check_folder(folder, base_shapes(width=16))


def test_the_name_of_the_base_decides_nothing(tmp_path):
    check_folder(adapter(tmp_path / "a", lora_config(base_model_name_or_path="another/name")), base_shapes())


def test_an_adapter_of_a_shallower_or_deeper_base_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="covers 2 layers, this base has 3"):
        check_folder(adapter(tmp_path / "a"), base_shapes(layers=3))
    with pytest.raises(AdapterError, match=r"layer model\.layers\.1\.self_attn\.q_proj, which this base does not have"):
        check_folder(adapter(tmp_path / "b"), base_shapes(layers=1))
    chosen = adapter(tmp_path / "c", lora_config(layers_to_transform=[0]), lora_tensors(layers=1))
    check_folder(chosen, base_shapes())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": None}, "lacks lora_A"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (WIDTH, 2)}, "no pair of a rank"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (WIDTH,)}, "no pair of a rank"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (WIDTH,)}, "use_dora False"),
        ({"base_model.model.model.embed_tokens.base_layer.weight": (32, WIDTH)}, "weights of the base itself"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 32)}, "embedding layer"),
        ({"model.norm.weight": (WIDTH,)}, "no part of a LoRA"),
        ({"base_model.model.score.weight": (1, WIDTH)}, "no part of a LoRA"),
    ],
)
def test_tensors_that_do_not_belong(tmp_path, changes, why):
    tensors = {k: v for k, v in {**lora_tensors(), **changes}.items() if v is not None}
    with pytest.raises(AdapterError, match=why):
        check_folder(adapter(tmp_path / "a", tensors=tensors), base_shapes())


def test_the_rank_must_be_the_one_the_config_says(tmp_path):
    with pytest.raises(AdapterError, match="rank 2 in layer"):
        check_folder(adapter(tmp_path / "a", tensors=lora_tensors(rank=2)), None)
    check_folder(adapter(tmp_path / "b", lora_config(rank_pattern={"proj": 2}), lora_tensors(rank=2)), None)


def test_no_tensors_at_all(tmp_path):
    with pytest.raises(AdapterError, match="holds no tensor"):
        check_folder(adapter(tmp_path / "a", tensors={}), None)


def test_dora_needs_its_magnitudes(tmp_path):
    sizes = {n.replace("lora_A.weight", "lora_magnitude_vector"): (WIDTH,) for n in lora_tensors() if "lora_A" in n}
    check_folder(adapter(tmp_path / "a", lora_config(use_dora=True), lora_tensors() | sizes), base_shapes())
    with pytest.raises(AdapterError, match="use_dora True"):
        check_folder(adapter(tmp_path / "b", lora_config(use_dora=True)), base_shapes())


def test_ia3_against_the_base(tmp_path):
    config = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}

    def vectors(out: int, inner: int) -> dict[str, tuple[int, ...]]:
        stems = [f"base_model.model.model.layers.{i}" for i in range(2)]
        return {f"{s}.self_attn.k_proj.ia3_l": (out, 1) for s in stems} | {
            f"{s}.mlp.down_proj.ia3_l": (1, inner) for s in stems
        }

    check_folder(adapter(tmp_path / "a", config, vectors(WIDTH // 2, INNER)), base_shapes())
    with pytest.raises(AdapterError, match="k_proj is 6 wide, this base's is 4"):
        check_folder(adapter(tmp_path / "b", config, vectors(6, INNER)), base_shapes())
    with pytest.raises(AdapterError, match="down_proj is 20 wide, this base's is 12"):
        check_folder(adapter(tmp_path / "c", config, vectors(WIDTH // 2, 20)), base_shapes())


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING"])
def test_virtual_tokens_against_the_base(tmp_path, peft_type):
    config = {"peft_type": peft_type, "num_virtual_tokens": 5, "num_layers": 2, "token_dim": WIDTH}
    check_folder(adapter(tmp_path / "a", config, {"prompt_embeddings": (5, WIDTH)}), base_shapes())
    with pytest.raises(AdapterError, match="virtual token is 8 wide, this base's is 16"):
        check_folder(tmp_path / "a", base_shapes(width=16))
    with pytest.raises(AdapterError, match="it has 2 layers, this base has 3"):
        check_folder(tmp_path / "a", base_shapes(layers=3))
    with pytest.raises(AdapterError, match="5 virtual tokens"):
        check_folder(adapter(tmp_path / "b", config, {"prompt_embeddings": (6, WIDTH)}), None)
    with pytest.raises(AdapterError, match="not what its config says"):
        check_folder(adapter(tmp_path / "c", config, {"prompt_embeddings": (5, 9)}), None)


def test_prefix_keys_and_values_against_the_base(tmp_path):
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "num_layers": 2, "token_dim": 4}
    check_folder(adapter(tmp_path / "a", config, {"prompt_embeddings": (5, 2 * 2 * 4)}), base_shapes())
    with pytest.raises(AdapterError, match="keys and values of all layers is 16 wide, this base's is 32"):
        check_folder(tmp_path / "a", base_shapes(width=16))


def test_bottleneck_against_the_base(tmp_path):
    config = {"peft_type": "BOTTLENECK", "r": 3, "target_modules": ["mlp.down_proj"]}
    place = "base_model.model.model.layers.{}.mlp.down_proj.bottleneck_"
    shapes = {"down.weight": (3, WIDTH), "down.bias": (3,), "up.weight": (WIDTH, 3), "up.bias": (WIDTH,)}
    sound = {place.format(layer) + part: shape for layer in (0, 1) for part, shape in shapes.items()}
    check_folder(adapter(tmp_path / "a", config, sound), base_shapes())
    with pytest.raises(AdapterError, match="8 wide, this base's is 16"):
        check_folder(tmp_path / "a", base_shapes(width=16))
    with pytest.raises(AdapterError, match="no part of a bottleneck"):
        check_folder(adapter(tmp_path / "b", config, {"base_model.model.lm_head.weight": (3, WIDTH)}), None)
    for number, (part, shape) in enumerate(
        {"up.bias": None, "down.weight": (4, WIDTH), "up.weight": (WIDTH, 2)}.items()
    ):
        torn = {name: (shape if name.endswith(part) else there) for name, there in sound.items()}
        torn = {name: there for name, there in torn.items() if there}
        with pytest.raises(AdapterError, match="no bottleneck 3 wide"):
            check_folder(adapter(tmp_path / f"torn{number}", config, torn), None)


def test_a_fingerprint_decides_where_both_are_known(tmp_path):
    folder = adapter(tmp_path / "a", run=a_run(base_fingerprint="aa" * 8))
    check_folder(folder, base_shapes(fingerprint="aa" * 8))
    check_folder(folder, base_shapes())
    with pytest.raises(AdapterError, match=r"fingerprint aaaaaaaaaaaaaaaa.*It needs smollm2-135m"):
        check_folder(folder, base_shapes(fingerprint="bb" * 8))


def test_the_score_head_of_a_reward_model(tmp_path):
    config = lora_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    tensors = {**lora_tensors(), "base_model.model.score.weight": (1, WIDTH)}
    check_folder(adapter(tmp_path / "a", config, tensors, a_run(objective="reward")), base_shapes())
    with pytest.raises(AdapterError, match="modules_to_save"):
        check_folder(adapter(tmp_path / "b", config, tensors, a_run()), base_shapes())
    tensors["base_model.model.lm_head.weight"] = (32, WIDTH)
    with pytest.raises(AdapterError, match="no part of a LoRA"):
        check_folder(adapter(tmp_path / "c", config, tensors, a_run(objective="reward")), base_shapes())


def test_a_file_cut_off_in_the_middle(tmp_path):
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(AdapterError, match="damaged"):
        check_folder(folder, None)
    safetensors(weights, b"\x80\x04pickle", 0)
    with pytest.raises(AdapterError, match="not safetensors"):
        check_folder(folder, None)


@pytest.mark.parametrize(
    ("there", "instead"),
    [('"data_offsets": [0,', '"data_offsets": [-0,'), ("{", '{"__metadata__": {"a": "\\ud800"}, ')],
)
def test_a_header_that_only_the_reader_of_weights_refuses_is_told_in_words(tmp_path, there, instead):
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    fields = header(lora_tensors())
    safetensors(
        weights,
        json.dumps(fields).replace(there, instead, 1).encode(),
        max(f["data_offsets"][1] for f in fields.values()),
    )
    with pytest.raises(AdapterError, match=r"is damaged or is not safetensors: .*Copy or download it again"):
        check_folder(folder, None)


def with_last_number(folder, number):
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", number))
    return folder


def test_numbers_are_read_unless_whoever_loads_them_looks_at_them(tmp_path):
    folder = with_last_number(adapter(tmp_path / "a"), float("nan"))
    with pytest.raises(AdapterError, match="holds nan"):
        check_folder(folder, None)
    check_folder(folder, None, numbers=False)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"lora_alpha": 4}, True),
        ({"lora_alpha": 65536}, False),
        ({"lora_alpha": 10}, True),
        ({"lora_alpha": 10, "use_rslora": True}, False),
        ({"lora_alpha": 4, "alpha_pattern": {"down_proj": 65536}}, True),
        ({"lora_alpha": 4, "alpha_pattern": {"q_proj": 65536}}, False),
    ],
)
def test_numbers_that_are_too_large_once_scaled_are_refused(tmp_path, changes, fits):
    """The last tensor is a lora_B of rank 4."""
    tensors = dict(sorted(lora_tensors().items()))
    assert [*tensors][-1].endswith("q_proj.lora_B.weight")
    folder = with_last_number(adapter(tmp_path / "a", lora_config(**changes), tensors), 3000.0)
    if fits:
        check_folder(folder, None)
    else:
        with pytest.raises(AdapterError, match=r"q_proj\.lora_B\.weight \(times its scale\)"):
            check_folder(folder, None)
