"""What is taken and what is refused: names, settings, tensors, numbers; by hand and as PEFT writes them."""

import os
import struct

import pytest

from playground.library.bases import BaseShapes
from playground.library.card import refuse_names
from playground.library.safety import check_config, check_folder

from .conftest import LAYERS, WIDTH, a_run, adapter, base_shapes, cases, lora_config, lora_tensors, refused


def refuse(folder, why, base=None):
    return refused(why, check_folder, folder, base)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_sound_adapter_passes_with_and_without_a_base_whatever_its_base_is_called(tmp_path, dtype):
    folder = adapter(tmp_path / "a", lora_config(base_model_name_or_path="another/name"), run=a_run(), dtype=dtype)
    (folder / "adapter_config.json").chmod(0o777)  # as some file systems mark every file
    check_folder(folder, None)
    check_folder(folder, base_shapes())


def test_pickles_and_programs_are_refused_by_name_and_all_faults_of_settings_are_told_at_once(tmp_path):
    folder = adapter(tmp_path / "a") / "sub"
    folder.mkdir()
    for name in ("adapter_model.bin", "optimizer.pt", "x.pth", "x.PKL", "x.pickle", "last.ckpt", "x.bin ", "x.pt."):
        (folder / name).touch()
        said = refuse(folder.parent, "a pickle that can run code")
        assert (name.strip() in said, "delete that file" in said) == (True, True)
        (folder / name).unlink()
    alone = ["adapter_config.json", "adapter_model.bin"]
    refused(r"adapter_model\.bin.*export the adapter as safetensors", refuse_names, alone)
    for name in ("modeling.py", "x.pyc", "run.sh", "lib.so", "setup.EXE", "book.ipynb", "a.whl"):
        refused("a program", refuse_names, [name])
    said = refused("bias", check_config, lora_config(bias="all", r=1000, init_lora_weights="pissa"))
    assert all(word in said for word in ("r is 1000", "pissa", "rewrites the weights of the base"))


def test_says_what_is_missing_and_links_executables_pipes_and_too_many_files_are_refused(tmp_path):
    folder = adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    refuse(folder, r"adapter_model\.safetensors is missing; there is: adapter_config\.json")
    adapter(tmp_path / "b" / "checkpoint-10")
    refuse(tmp_path / "b", r"folder inside it .checkpoint-10")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    refuse(tmp_path / "c", "whole model")
    folder = adapter(tmp_path / "a")
    link, tool, pipe = folder / "notes.txt", folder / "tool", folder / "pipe"
    link.symlink_to("/etc/passwd")
    refuse(folder, r"notes\.txt, a link")
    link.unlink()
    tool.touch(mode=0o755)
    refuse(folder, "tool, an executable")
    tool.unlink()
    os.mkfifo(pipe)
    refuse(folder, "neither a file nor a folder")
    pipe.unlink()
    for i in range(70):
        (folder / f"{i}.txt").touch()
    refuse(folder, "more than 64 files")


@pytest.mark.parametrize("case", cases("configs"), ids=str)
def test_ordinary_settings_of_every_method_pass_and_any_other_is_refused_by_name(case):
    config = lora_config(**case["lora"]) if "lora" in case else case["config"]
    if not case["refused"]:
        assert check_config(config).peft_type == config["peft_type"]
    else:
        refused(case["refused"], check_config, config)


def test_a_reward_model_may_save_its_score_head_and_nothing_else(tmp_path):
    config = lora_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    tensors = {**lora_tensors(), "base_model.model.score.weight": (1, WIDTH)}
    check_folder(adapter(tmp_path / "a", config, tensors, a_run(objective="reward")), base_shapes())
    refuse(adapter(tmp_path / "b", config, tensors, a_run()), "modules_to_save", base_shapes())
    refused("score head", check_config, {**config, "modules_to_save": ["score", "lm_head"]}, reward=True)
    tensors["base_model.model.lm_head.weight"] = (32, WIDTH)
    refuse(adapter(tmp_path / "c", config, tensors, a_run(objective="reward")), "no part of a LoRA", base_shapes())


@pytest.mark.parametrize("case", cases("fits"), ids=lambda case: case["about"])
def test_an_adapter_fits_a_base_by_names_and_shapes(tmp_path, case):
    """width, layers, rank: of a LoRA's tensors, before those that are named, each layer's where a name has {}."""
    config, tensors = case.get("config") or lora_config(**case["lora"]), {}
    if "lora" in case:
        tensors |= lora_tensors(case.get("rank", 4), case.get("width", WIDTH), case.get("layers", LAYERS))
    for name, shape in case.get("tensors", {}).items():
        tensors |= {name.format(layer): shape for layer in range(LAYERS)}
    tensors = {name: shape for name, shape in tensors.items() if shape is not None}
    folder = adapter(tmp_path / "a", config, tensors, case.get("run"), case.get("dtype", "F32"))
    for said, why in case["bases"]:
        base = said
        if said is not None:
            there = base_shapes(said.get("width", WIDTH), said.get("layers", LAYERS))
            base = BaseShapes(there.shapes, said.get("config", {}), said.get("fingerprint", ""))
        refuse(folder, why, base) if why else check_folder(folder, base)


SCALED = [
    *(({"lora_alpha": 4}, True), ({"lora_alpha": 65536}, False), ({"lora_alpha": 10}, True)),
    ({"lora_alpha": 10, "use_rslora": True}, False),
    ({"lora_alpha": 4, "alpha_pattern": {"down_proj": 65536}}, True),
    ({"lora_alpha": 4, "alpha_pattern": {"q_proj": 65536}}, False),
]


def test_numbers_that_are_none_or_too_large_once_scaled_are_refused(tmp_path):
    """Unless whoever loads them looks at them. The last tensor is a lora_B of rank 4."""

    def with_last_number(number, **changes):
        folder = adapter(tmp_path / "a", lora_config(**changes), dict(sorted(lora_tensors().items())))
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", number))
        return folder

    folder = with_last_number(float("nan"))
    refuse(folder, r"holds nan in .*q_proj\.lora_B\.weight")
    check_folder(folder, None, numbers=False)
    for changes, fits in SCALED:
        folder = with_last_number(3000.0, **changes)
        check_folder(folder, None) if fits else refuse(folder, r"q_proj\.lora_B\.weight \(times its scale\)")


def test_a_real_reward_model_passes_with_its_record_only(tiny_base, tmp_path):
    import peft
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "reward")
    refuse(tmp_path / "reward", "task_type", BaseShapes.from_folder(tiny_base))
    (tmp_path / "reward" / "run.json").write_text('{"schema": 1, "objective": "reward"}')
    check_folder(tmp_path / "reward", BaseShapes.from_folder(tiny_base))
