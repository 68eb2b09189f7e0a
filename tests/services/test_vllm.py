"""vLLM as the engine, against a small server that speaks as vLLM 0.32 does and writes with the engine of the tests' own
base: so what it says must be what is said here."""

import contextlib
import copy
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from playground.chat.compare import Side
from playground.chat.programs import Saved, all_replies, read_saved
from playground.cli import device
from playground.cli.common import build_parser
from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, Sampling, ScoreRow
from playground.errors import BaseUnavailableError
from playground.models.remote import Client
from playground.models.vllm_engine import VllmEngine, look_at
from playground.services import build_services
from playground.settings import Settings
from tests.refused import refused
from tests.services.conftest import last
from tests.waiting import wait_for

KEY = "sk-very-secret"
PROMPTS = ("One, two,", "A word about rain:", "One, two,")


class Vllm:
    """engine: what it writes with. loaded: its adapters by name. folder: where its resolver looks, None = nowhere."""

    def __init__(self, base):
        self.engine, self.root, self.loaded = Engine(base), str(base), {}
        self.routes, self.rank, self.folder, self.bodies = True, 8, None, []

    def say(self, path, body):
        body = json.loads(body or b"{}")
        self.bodies.append((path, body))
        return {
            "/version": lambda body: (200, {"version": "0.32.0"}),
            "/tokenize": lambda body: (200, {"tokens": self.engine.tokenizer.encode(body["prompt"])}),
            "/v1/models": self.models,
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
        }[path](body)

    def models(self, body):
        adapters = [{"id": name, "root": str(one), "parent": "base"} for name, one in self.loaded.items()]
        return 200, {"data": [{"id": "base", "root": self.root, "max_model_len": 512}, *adapters]}

    def load(self, body):
        name, folder = body["lora_name"], Path(body["lora_path"])
        if not self.routes:
            return 404, {"detail": "Not Found"}
        if name in self.loaded:
            return 400, error(f"The lora adapter '{name}' has already been loaded.")
        if not folder.is_dir():
            return 404, error(f"The lora adapter '{name}' was not found at {folder}.")
        if (rank := json.loads((folder / "adapter_config.json").read_text())["r"]) > self.rank:
            return 500, error(f"LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        self.engine.attach(AdapterFile(name, folder, name))
        self.loaded[name] = folder
        return 200, b'"Success"'

    def unload(self, body):
        return (200, b'"Success"') if self.loaded.pop(body["lora_name"], None) else (404, error("cannot be found"))

    def complete(self, body):
        name = body["model"]
        if self.folder is not None and (there := self.folder / name).is_dir():
            assert json.loads((there / "adapter_config.json").read_text())["base_model_name_or_path"] == self.root
            self.engine.attach(AdapterFile(name, there, name))
        elif name != "base" and name not in self.loaded:
            return 404, error(f"The model `{name}` does not exist.")
        adapter = None if name == "base" else name
        if only := body.get("allowed_token_ids"):
            logits = self.engine.backend.logits([body["prompt"]], adapter)[0].float().log_softmax(-1)
            choice = {"logprobs": {"token_logprobs": [float(logits[only[0]])]}}
            return 200, {"choices": [choice | {"text": "x", "token_ids": only, "finish_reason": "length"}]}
        known = {one: body[one] for one in ("temperature", "top_p", "max_tokens", "seed", "top_k", "min_tokens")}
        known |= {"repetition_penalty": body["repetition_penalty"], "ignore_eos": body["ignore_eos"]}
        if (held := body.get("structured_outputs")) is not None:
            known["format"] = f"regex:{held['regex']}" if "regex" in held else f"json-schema:{json.dumps(held['json'])}"
        row = Row("unused", adapter, Sampling(**known, stop=tuple(body.get("stop", ()))), body.get("logprobs"))
        *_, (state,) = self.engine.decoder.stream([row], [body["prompt"]])
        ends = [] if state.finish == "length" else [self.engine.tokenizer.eos_token_id]
        pieces = [([token], "") for token in state.tokens] + [(ends, state.finish)]
        shares = [one.logprob for one in state.logprobs] + [0.0]
        lines = []
        for (ids, end), share in zip(pieces, shares if state.logprobs else [None] * len(pieces), strict=True):
            choice = {"index": 0, "text": "x", "token_ids": ids, "finish_reason": end or None}
            top = {f"token_id:{one}": share for one in ids}
            if share is not None:
                choice["logprobs"] = {"tokens": list(top), "token_logprobs": [share], "top_logprobs": [top]}
            lines.append({"choices": [choice]})
        return 200, "".join(f"data: {json.dumps(one)}\n\n" for one in lines).encode() + b"data: [DONE]\n\n"


def error(message):
    return {"error": {"message": message, "code": 0}}


@pytest.fixture
def vllm(server, tiny_base):
    there = Vllm(tiny_base)
    server.say, there.url = there.say, f"vllm:{server.url}"
    yield there
    there.engine.close()


@pytest.fixture
def loras(make_lora):
    return [AdapterFile(f"a{n}", make_lora(n), f"{n}" * 64) for n in (1, 2)]


@pytest.fixture
def remote(settings, vllm):
    """Services whose replies that server computes."""
    with contextlib.closing(build_services(replace(settings, engine=vllm.url))) as built:
        yield built


def said(engine, rows):
    *_, states = engine.stream(rows)
    return [replace(one, seconds=0.0, first_token_s=0.0) for one in states]


FORM = 'json-schema:{"enum": ["one", "two"]}'
SAMPLINGS = (
    Sampling(max_tokens=12),
    Sampling(0.9, 0.8, 12, seed=3, top_k=40, repetition_penalty=1.2, min_tokens=4),
    Sampling(max_tokens=12, ignore_eos=True, stop=("a", "e")),
    Sampling(max_tokens=60, format=FORM),
    Sampling(max_tokens=30, format="regex:(yes|no)"),
)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_replies_and_losses_of_base_and_adapters_are_ours_token_for_token(vllm, tiny_base, loras, sampling):
    here, there = Engine(tiny_base), VllmEngine(vllm.url, tiny_base, Client())
    for engine in (here, there):
        assert all([engine.attach(lora) > 0 for lora in loras] + [engine.attach(lora) == 0 for lora in loras])
    carried = (None, "a1", "a2")
    rows = [Row(prompt, name, sampling, logprobs=0) for prompt, name in zip(PROMPTS, carried, strict=True)]
    ours, theirs = said(here, rows), said(there, rows)
    for one, other in zip(ours, theirs, strict=True):
        given = [[share.logprob for share in state.logprobs] for state in (one, other)]
        assert given[0] == pytest.approx(given[1], abs=1e-5)
        assert replace(one, logprobs=()) == replace(other, logprobs=())
    sent = [body for path, body in vllm.bodies if path == "/v1/completions"][-3:]
    assert {body["model"] for body in sent} == {"base", f"a1-{'1' * 12}", f"a2-{'2' * 12}"}
    scored = [
        ScoreRow(prompt, " and so on.", name, divergence=True) for prompt, name in zip(PROMPTS, carried, strict=True)
    ]
    for one, other in zip(here.score(scored), there.score(scored), strict=True):
        assert (one.tokens, one.base_loss is None) == (other.tokens, other.base_loss is None)
        assert [one.loss, one.base_loss or 0] == pytest.approx([other.loss, other.base_loss or 0], abs=1e-4)
        assert other.divergence is None
    assert not there.has_no_effect("a1")
    assert there.check_fingerprint()[:2] == here.check_fingerprint()[:2]
    here.close()


def test_an_adapter_goes_with_its_version_and_is_loaded_again_where_the_server_lost_it(vllm, tiny_base, loras):
    there, rows = VllmEngine(vllm.url, tiny_base, Client()), [Row(PROMPTS[0], "a1", Sampling(max_tokens=4))]
    there.attach(loras[0])
    first = said(there, rows)
    vllm.loaded.clear()
    assert said(there, rows) == first
    there.attach(replace(loras[1], id="a1"))
    assert list(vllm.loaded) == [f"a1-{'2' * 12}"]
    assert said(there, rows) != first
    there.detach("a1")
    assert (vllm.loaded, there.attached()) == ({}, {})
    refused("a1 is not attached", list, there.stream(rows))
    again = VllmEngine(vllm.url, tiny_base, Client())  # another process: it is there already
    vllm.loaded[f"a2-{'2' * 12}"] = loras[1].path
    again.attach(loras[1])
    again.close()
    assert vllm.loaded == {}


@pytest.mark.parametrize("replicas", [2, 3])
def test_an_adapter_is_loaded_on_each_of_several_replicas_behind_one_address(vllm, server, tiny_base, loras, replicas):
    each = [vllm, *(copy.copy(vllm) for _ in range(replicas - 1))]
    for one in each:
        one.loaded = {}
    turns = itertools.cycle(each)
    server.say = lambda path, body: next(turns).say(path, body)
    there, rows = VllmEngine(vllm.url, tiny_base, Client()), [Row(PROMPTS[0], "a1", Sampling(max_tokens=4))]
    there.attach(loras[0])
    (first,) = said(there, rows)
    assert [first] * 6 == [said(there, rows)[0] for _ in range(6)] == said(there, rows * 6)
    assert (first.finish, not there.has_no_effect("a1")) == ("length", True)
    assert [list(one.loaded) for one in each] == [[f"a1-{'1' * 12}"]] * replicas


def test_what_the_server_lacks_is_told_with_what_to_do(vllm, tiny_base, loras, tmp_path):
    there = VllmEngine(vllm.url, tiny_base, Client())
    gone = replace(loras[0], path=tmp_path / "gone")
    refused("not found at .*/gone. Put PLAYGROUND_HOME where both see it", there.attach, gone)
    vllm.rank = 2
    refused("rank 4 is greater than max_lora_rank 2. Start it with a larger --max-lora-rank", there.attach, loras[0])
    vllm.routes = False
    refused("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or name the folder", there.attach, loras[0])
    refused(
        "prompt is 2 tokens .* 600; this base holds 512",
        list,
        there.stream([Row("Hi", None, Sampling(max_tokens=600))]),
    )


def test_a_folder_that_both_see_needs_no_route(vllm, tiny_base, loras, tmp_path):
    vllm.folder, vllm.routes = tmp_path / "adapters", False
    there, rows = (
        VllmEngine(f"{vllm.url}#{vllm.folder}", tiny_base, Client()),
        [Row(PROMPTS[0], "a1", Sampling(max_tokens=4))],
    )
    refused("a1 cannot be put into .*/adapters", there.attach, loras[0])
    vllm.folder.mkdir()
    there.attach(loras[0])
    said(there, rows)
    assert [one.name for one in vllm.folder.iterdir()] == [f"a1-{'1' * 12}"]
    there.detach("a1")
    assert not [*vllm.folder.iterdir()]


def test_a_server_of_another_base_is_refused_by_name(vllm, tiny_base, qwen, tmp_path):
    def engine(folder=tiny_base):
        return VllmEngine(vllm.url, folder, Client())

    refused(
        f"does not serve qwen, .*it serves: {tiny_base}. Start vLLM with --model {qwen}",
        engine,
        qwen,
        error=BaseUnavailableError,
    )
    vllm.root = str(qwen)
    refused("it serves: .*/qwen", engine, error=BaseUnavailableError)
    vllm.root = str(shutil.copytree(tiny_base, tmp_path / "copy"))
    assert engine().path == "vLLM 0.32.0 at 127.0.0.1"
    vllm.root = "owner/name"
    refused("it serves: owner/name", engine, error=BaseUnavailableError)
    assert engine(Path(shutil.copytree(tiny_base, tmp_path / "hub--owner--name--at--main"))).where["dtype"] is None


def test_the_app_answers_by_it_and_other_methods_are_refused(remote, vllm, make_lora, server, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_ENGINE_KEY", KEY)
    mine = remote.adapters.import_file(Path(make_lora(3))).id
    dora = remote.adapters.import_file(Path(make_lora(4, use_dora=True))).id
    assert {row.card.id: row.usable for row in remote.adapters.list()}[dora] is False
    sampling = Sampling(max_tokens=6)
    replies = all_replies(remote.compare, [Side("base", name="a"), Side(mine, name="b")], ["Hello"], sampling)
    assert replies[0]["text"] != replies[1]["text"]
    stamp = replies[1]["stamp"]
    about = {"engine": "vLLM 0.32.0 at 127.0.0.1", "dtype": None, "device": None, "rows": 2}
    assert {name: stamp[name] for name in about} == about
    assert {token for _, token, _ in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(replies) + repr(remote.settings)
    again = remote.replay.again(read_saved(replies[1])[0])
    assert (again["same"], again["notes"]) == (True, [])
    assert remote.replay.again(Saved(stamp | {"engine": None, "device": "cpu"}))["notes"]
    assert (remote.manager.used_bytes, remote.device.status()["base"]["path"]) == (0, about["engine"])
    (no,) = last(remote.compare.ask([Side(dora)], [[]], "Hello", sampling))
    assert "it is a DoRA, and vLLM, which answers here, runs LoRA alone" in no.error
    remote.adapters.remove(mine)
    assert vllm.loaded == {}


def test_a_verdict_whose_server_dies_is_told_and_goes_on_once_it_is_back(remote, vllm, server, asked):
    asked_for = []

    def dies(path, body):
        asked_for.extend([path] * (b'"stream"' in body))
        return vllm.say(path, body) if len(asked_for) <= 10 else (503, {})

    server.say = dies
    view = last(remote.verdicts.run(asked))
    assert (view.state, 0 < len(remote.verdicts.rows(view.id)) < 24) == ("FAILED", True)
    assert "vLLM at 127.0.0.1 answered 503" in view.error
    server.say = vllm.say
    on = remote.verdicts.extension(view.id, 0)
    whole = last(remote.verdicts.run(on))
    assert (whole.state, len(remote.verdicts.rows(whole.id))) == ("DONE", 24)


def test_a_server_that_is_away_at_the_start_is_named_and_asked_until_it_is_there(settings, vllm, server):
    server.say = lambda path, body: (502, {})
    with contextlib.closing(build_services(replace(settings, engine=vllm.url))) as services:
        services.bases.retry_s = 0.05
        services.bases.start()
        wait_for(lambda: services.bases.state().phase == "failed")
        assert "vLLM at 127.0.0.1 answered 502" in services.bases.state().message
        server.say = vllm.say
        wait_for(lambda: services.bases.state().phase == "ready")


def test_the_setting_is_read_and_a_wrong_one_is_refused():
    for good in ("vllm:http://host:8000", "vllm:https://host/v1#/shared/adapters"):
        assert Settings.from_env({"PLAYGROUND_ENGINE": good}).engine == good
    for wrong in ("vllm", "http://host", "vllm:host:8000", "vllm:http://me:key@host", "vllm:http://host#there"):
        refused("PLAYGROUND_ENGINE", Settings.from_env, {"PLAYGROUND_ENGINE": wrong})


def test_doctor_and_status_ask_the_server_and_say_what_it_serves_or_what_to_do(vllm, server, settings, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_ENGINE", vllm.url)
    asked = build_parser().parse_args
    paths = {"paths": {"/v1/load_lora_adapter": {}}}
    server.say = lambda path, body: (200, paths) if path == "/openapi.json" else vllm.say(path, body)
    away = replace(settings, engine=vllm.url)
    found, words, code = device.doctor(away, asked(["doctor", "--offline"]))
    assert (found["engine"]["answers"], code) == (True, 0)
    assert f"serves {vllm.root}; adapters by its routes" in words
    assert "adapters from /there" in look_at(f"{vllm.url}#/there")[1]
    server.say = lambda path, body: (502, {})
    for verb in (device.doctor, device.status):
        found, words, code = verb(away, asked([verb.__name__, *["--offline"] * (verb is device.doctor)]))
        assert "does not answer as vLLM does: Server error" in words
        assert "unset PLAYGROUND_ENGINE" in words
    server.say = lambda path, body: (200, [])
    assert look_at(vllm.url)[0] is False
