"""Replies once more from their stamps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from playground.chat.compare import Side
from playground.chat.programs import Saved, all_replies, read_saved, together
from playground.engine.request import Sampling
from playground.errors import NotFoundError
from playground.services import build_services
from tests.refused import refused
from tests.services.conftest import whole_model

DRAWN = Sampling(temperature=1.0, top_p=0.95, max_tokens=12, seed=5, repetition_penalty=1.1)


@pytest.fixture
def mine(services, make_lora, tmp_path):
    """An adapter's id."""
    return services.adapters.import_file(Path(shutil.copytree(make_lora(70), tmp_path / "mine"))).id


def asked(services, *models):
    """Replies as the command line prints them, read back from JSON."""
    sides = [Side(model, name=f"{n}") for n, model in enumerate(models)]
    return json.loads(json.dumps(all_replies(services.compare, sides, ["Hello"], DRAWN)))


def test_the_same_text_comes_again_of_a_whole_model_and_in_another_process_too(services, mine, tiny_base):
    replies = asked(services, mine, "base", "base")
    assert {reply["stamp"]["rows"] for reply in replies} == {3}
    written = []
    found = [services.replay.again(saved, written.append) for saved in read_saved({"replies": replies})]
    assert [one["text"] for one in found] == [reply["text"] for reply in replies]
    assert {(one["same"], one["first_difference"], tuple(one["notes"])) for one in found} == {(True, None, ())}
    assert (written[-1], services.manager.leases()) == (replies[-1]["completion_tokens"], [])
    (whole,) = asked(services, whole_model(services, tiny_base, noise=0.02))
    assert services.replay.again(read_saved(whole)[0])["same"] is True
    (alone,) = asked(services, mine)
    assert alone["stamp"]["rows"] == 1
    assert build_services(services.settings).replay.again(read_saved(alone)[0])["same"] is True


def test_a_form_is_in_the_stamp_the_reply_comes_again_and_a_changed_adapter_is_refused(services, mine):
    side = Side(mine, format='json-schema:{"type": "object", "required": ["id"]}')
    (reply,) = all_replies(services.compare, [side], ["Hello"], DRAWN)
    assert json.loads(reply["text"]).keys() >= {"id"}
    assert reply["stamp"]["sampling"]["format"] == side.format
    assert services.replay.again(read_saved(reply)[0])["same"] is True
    weights = services.adapters.get(mine).path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused("mine has changed since", services.replay.again, read_saved(reply)[0])
    services.adapters.remove(mine)
    refused("There is no adapter 'mine'", services.replay.check, read_saved(reply)[0], error=NotFoundError)


def test_a_changed_text_is_told_another_device_is_said_and_what_cannot_be_the_same_is_refused_at_once(services):
    (reply,) = asked(services, "base")
    text = reply["text"]
    for changed, at in ((text[:4] + "☃" + text[5:], 4), (text + "!", len(text)), (text[:-1], len(text) - 1), ("", 0)):
        found = services.replay.again(read_saved(reply | {"text": changed})[0])
        assert (found["same"], found["first_difference"], found["text"]) == (False, at, text)
    bare = services.replay.again(read_saved(reply["stamp"])[0])
    assert bare == {"same": None, "text": text, "first_difference": None, "notes": []}
    device, dtype = services.replay.again(Saved(reply["stamp"] | {"device": "cuda:0", "dtype": "bfloat16"}))["notes"]
    assert "was cuda:0" in device
    assert "was bfloat16" in dtype
    stamp = reply["stamp"]
    for changes, says in (
        ({"base": "f" * 16}, "the fingerprint ffffffffffff"),
        ({"prompt": stamp["prompt"] | {"text": "Another"}}, "not the one that ran"),
        ({"prompt": None}, "holds no prompt"),
        ({"rows": 0}, "rows are 0"),
        ({"rows": True}, "rows are None"),
        ({"rows": 10_000}, "1 to 64"),
        ({"sampling": {"heat": 1}}, "sampling cannot be read"),
        ({"sampling": None}, "sampling cannot be read"),
        ({"sampling": {"temperature": "hot"}}, "temperature is 'hot'; it is a number"),
        ({"sampling": {"temperature": 9}}, "from 0"),
    ):
        refused(says, services.replay.check, Saved(stamp | changes))
    older = {name: stamp["sampling"][name] for name in ("temperature", "top_p", "max_tokens")}
    assert services.replay.check(Saved(stamp | {"sampling": older}))[0].sampling.stop == ()


STAMP = {"prompt": {"text": "x"}, "seed": 1}


@pytest.mark.parametrize(
    "value", [None, 3, "x", [], {}, {"stamp": 3}, {"replies": []}, {"replies": [1]}, {"choices": [{}]}, {"choices": []}]
)
def test_a_file_without_a_stamp_is_refused_in_words(value):
    refused(r".+\. .+\.$|.+\.$", read_saved, value)


def test_every_kind_of_file_is_read_and_several_are_the_same_only_if_all_are():
    reply = {"side": "base", "turn": 1, "text": "Hi", "stamp": STAMP}
    assert read_saved(reply) == [Saved(STAMP, "Hi", "base, turn 2")]
    assert read_saved({"replies": [reply, {"stamp": STAMP}]}) == [Saved(STAMP, "Hi", "base, turn 2"), Saved(STAMP)]
    assert read_saved(STAMP) == [Saved(STAMP)]
    assert read_saved({"side": "base", "reply": "Hi", "stamp": STAMP}) == [Saved(STAMP, "Hi", "base")]
    one = {"index": 0, "message": {"role": "assistant", "content": "Hi"}}
    assert read_saved({"choices": [one], "playground": STAMP}) == [Saved(STAMP, "Hi")]
    other = STAMP | {"seed": 2}
    two = [one | {"playground": STAMP}, {"index": 1, "message": {"content": "Ho"}, "playground": other}]
    both = [Saved(STAMP, "Hi", "choice 0"), Saved(other, "Ho", "choice 1")]
    assert read_saved({"choices": two, "playground": STAMP}) == both

    def result(same, text):
        return {"same": same, "text": text, "first_difference": 1 if same is False else None, "notes": []}

    yes, no, unknown = result(True, "a"), result(False, "b"), result(None, "c")
    assert together([yes]) == yes
    assert together([yes, yes])["same"] is True
    assert together([yes, unknown])["same"] is None
    mixed = together([yes, unknown, no])
    assert mixed == {"same": False, "text": "b", "first_difference": 1, "replies": [yes, unknown, no]}


def test_a_chosen_precision_is_what_replies_are_computed_in_and_the_stamp_says_so(settings):
    services = build_services(replace(settings, precision="bf16"))
    (reply,) = asked(services, "base")
    assert (reply["stamp"]["dtype"], services.bases.engine().loaded.dtype) == ("bfloat16", torch.bfloat16)
    services.close()
