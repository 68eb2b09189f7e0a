"""A second server that really answers with the tiny model, with a fault planted: each is named by the hand-over."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from playground.data.example import Message
from playground.data.render import encode, render_prompt
from playground.errors import EndpointError, InputError
from playground.models.endpoints import Endpoint
from playground.services import build_services
from playground.verdict.differences import AS_BASE, NEAR_TIE, QUANTISED, SAMPLING, STOP, TEMPLATE
from playground.verdict.handover import Handover
from tests.cli.conftest import call
from tests.refused import refused
from tests.services.conftest import reply

__all__ = ["call"]
ROWS = [(f"Which colour is number {n}?", f"Number {n} is {['red', 'blue', 'green'][n % 3]}") for n in range(8)]


@pytest.fixture(scope="module")
def ends(tiny_base, tmp_path_factory):
    """A whole model whose replies end: the tiny base's end token is all zeros, so that it never comes."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("whole") / "ends")
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    head[2] = 4 * head[100]
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def lora(make_lora):
    return make_lora(31, rank=8)


@pytest.fixture(scope="module")
def models(tiny_base, lora, ends):
    """Name -> what a server may answer with."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, whole = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_base, ends))
    merged, damaged = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), lora).merge_and_unload()
        for _ in range(2)
    )
    with torch.no_grad():
        for weight in damaged.parameters():
            if weight.ndim > 1:  # 4 bits, a scale for each 32 numbers
                blocks = weight.view(-1, 32)
                scale = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-6) / 7
                blocks.copy_((blocks / scale).round() * scale)
    return {"lora": merged, "ends": whole, "base": base, "4 bits": damaged}


@pytest.fixture
def asked(services, settings, lora, ends, tmp_path):
    """(adapter, address) -> what is compared."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": ask, "completion": said}) + "\n" for ask, said in ROWS))

    def make(url, whole=False, **changes):
        id = shutil.copytree(ends, settings.adapters_dir / "ends").name if whole else ""
        return replace(Handover(id or services.adapters.import_file(lora).id, url, file), **changes)

    return make


@pytest.fixture
def serve(server, models, tiny_base):
    """(what it answers with, faults) -> its address."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def start(model="lora", template="", no_stop=False, penalty=1.0, drawn=False, counts=True):
        calls = []

        def say(path, body):
            if path.endswith("/models"):
                return 200, {"object": "list", "data": [{"id": "only", "object": "model"}]}
            if not path.endswith("/chat/completions"):
                return 404, {}
            said = json.loads(body)
            turns = [Message(one["role"], one["content"]) for one in said["messages"]]
            text = template.format(turns[-1].content) if template else render_prompt(tokenizer, turns)
            ids = encode(tokenizer, text)
            calls.append(said)
            torch.manual_seed(len(calls))
            how = {"do_sample": True, "temperature": 3.0} if drawn else {"do_sample": False}
            how |= {} if "repeat_penalty" in said else {"repetition_penalty": penalty}
            end = [4095] if no_stop else tokenizer.eos_token_id
            with torch.no_grad():
                how |= {"max_new_tokens": said["max_tokens"], "eos_token_id": end, "pad_token_id": 0}
                out = models[model].generate(torch.tensor([ids]), **how)[0, len(ids) :]
            words = tokenizer.decode(out, skip_special_tokens=True)
            usage = {"prompt_tokens": len(ids), "completion_tokens": len(out)}
            if not said.get("stream"):
                whole = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "length"}
                about = {"id": "x", "object": "chat.completion", "created": 0, "model": "only", "choices": [whole]}
                return 200, about | {"usage": usage | {"total_tokens": len(ids) + len(out)}}
            return 200, reply(words or " ", **(usage if counts else {}))

        server.say = say
        return f"{server.url}/v1"

    return start


FAULTS = {
    TEMPLATE: {"template": "User: {}\nAssistant:"},
    STOP: {"model": "ends", "no_stop": True},
    AS_BASE: {"model": "base"},
    SAMPLING: {"drawn": True},
    QUANTISED: {"model": "4 bits"},
}


def test_a_server_that_answers_the_same_is_said_to(services, asked, serve):
    found = services.handover.result(asked(serve()))
    assert (found.same, found.equal, found.rows, found.differences) == (True, 8, 8, ())
    assert found.sentence == "Same: 8 of 8 replies are equal."
    assert (found.pairs[0]["difference"], found.endpoint["model"]) == (0.0, "only")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("counts", [True, False])
def test_a_planted_fault_is_named_with_its_rows(services, asked, serve, fault, counts):
    found = services.handover.result(asked(serve(**FAULTS[fault], counts=counts), whole=fault == STOP))
    assert found.same is False
    assert fault == next(name for name in found.found if name != NEAR_TIE), found.differences
    assert found.sentence.startswith(f"Not the same: {fault} in ")
    one = found.differences[0]
    assert one.keys() == {"row", "ours", "theirs", "fault", "reason"}
    assert one["ours"] != one["theirs"]


def test_a_repeat_penalty_of_the_servers_own_is_named_and_taken_out_of_the_comparison(services, asked, serve):
    found = services.handover.result(asked(serve(penalty=0.5)))
    assert (found.same, set(found.found) - {NEAR_TIE}) == (False, {SAMPLING}), found
    assert (found.without_penalty.same, found.without_penalty.equal) == (True, 8)


def test_the_command_line_asks_and_says_it_as_json(call, asked, serve):
    one = asked(serve(model="base"))
    words = ("--to", "endpoint", "--url", f"{one.url}#any", "--rows", one.file, "--limit", 2)
    code, found, _ = call("handover", one.adapter, *words)
    assert (code, found["files"], found["same"], found["rows"]) == (0, [], False, 2)
    assert [row["fault"] for row in found["differences"]] == [AS_BASE] * 2
    assert found["pairs"][0].keys() >= {"a", "b", "metric", "difference", "low", "high", "p_value"}


def test_what_may_not_be_asked_is_refused_in_words(services, asked, settings, serve):
    def ask(service, url, **changes):
        return refused("", service.result, asked(url, **changes), error=InputError)

    shared = build_services(replace(settings, shared=True)).handover
    assert "No address is asked from a shared app" in ask(shared, serve())
    services.endpoints.add(Endpoint("far", "http://192.0.2.7/v1", "m"))
    assert "8 rows leave this machine for m at 192.0.2.7" in ask(services.handover, "far")
    assert "held-out rows" in ask(services.handover, serve(), file=None)
    assert ask(shared, "foo").endswith("endpoints.toml names them.")
    assert "Or give an address, such as http://127" in ask(services.handover, "foo")
    away = refused("", services.handover.result, asked("http://127.0.0.1:9/v1"), error=EndpointError)
    assert away.startswith("The server at 127.0.0.1 cannot be reached")
