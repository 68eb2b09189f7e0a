"""One conversation to one model, as a program asks it; and sides that cannot run, which never take the others down."""

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from playground.chat.batching import Asked
from playground.chat.compare import Side, Turn, conversation, side_as_json, side_from
from playground.chat.programs import Chat, all_replies, parse_side, read_saved
from playground.data.example import Example, Message
from playground.data.render import encode, render_prompt
from playground.engine.llama_memory import STEP
from playground.engine.request import SEED_MAX, Sampling
from playground.errors import NotFoundError, RunFailedError
from playground.gpu.policy import CAPACITY
from playground.library.files import file_fingerprint
from playground.models.bases import kv_bytes_per_token
from playground.runs.service import TrainRequest
from playground.services import build_services
from tests.engine.models import edited, load_base, poison, said_by, save_adapter, with_adapter
from tests.refused import refused
from tests.services.conftest import last, whole_model

SHORT = Sampling(max_tokens=6)
LONG = "Take your time. " * 400
"""More tokens than the tiny base holds."""


def test_sides_answer_together_each_with_its_own_prompt_and_its_own_fault(services):
    wrong = [Side("base", LONG), Side("base", "Be \ud800 brief."), Side("nobody")]
    sides = [*wrong, Side("base"), Side("base", "Be brief.")]
    snapshots = list(services.compare.ask(sides, [[]] * 5, "Hello", SHORT))
    assert len(snapshots) > 3, "streamed"
    long, half, nobody, plain, told = snapshots[-1]
    assert (plain.done, plain.completion_tokens, told.completion_tokens, plain.stamp["rows"]) == (True, 6, 6, 2)
    assert plain.prompt_tokens != told.prompt_tokens
    assert 0 < plain.first_token_s <= plain.seconds
    assert "this base holds 1024" in long.error
    assert "half a character" in half.error
    assert "There is no adapter 'nobody'" in nobody.error
    assert "Be brief." in told.stamp["prompt"]["text"]
    assert "named SmolLM" in plain.stamp["prompt"]["text"], "the base's own default is shown"
    assert services.manager.leases() == []
    status = json.loads(json.dumps(services.device.status()))
    assert status["used_bytes"] == sum(item["bytes"] for item in status["residents"]) > 0
    assert (services.device.line(), services.device.counts()["residents"]) == ("Device: idle", 1)


def test_shots_of_a_file_whose_columns_were_named_are_its_rows(services, tmp_path):
    file = tmp_path / "wards.csv"
    file.write_text("a,b,c\n" + "".join(f"note {n},report {n},{n}\n" for n in range(12)))
    side = Side("base", shots=1, shots_from=file)
    services.data.check(file, {"prompt": "b", "completion": "c"})
    (reply,) = list(services.compare.ask([side], [[]], "Hello", SHORT))[-1]
    assert re.search(r"user\nreport (\d+)<.*assistant\n\1<", reply.stamp["prompt"]["text"], re.DOTALL)


def test_turns_and_shots_come_before_the_question():
    pool = [Example((Message("user", f"q{n}"), Message("assistant", f"a{n}")), n) for n in range(5)]
    side = Side("base", "sys", 2, Path("x"))
    messages = conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    assert messages == conversation(side, [Turn("before", "so")], "q3", pool, seed=1)
    said = [message.content for message in messages]
    assert (said[0], said[-3:], len(said)) == ("sys", ["before", "so", "q3"], 1 + 4 + 3)
    assert said.count("q3") == 1, "the question is never its own shot"


def test_a_second_question_waits_with_its_place(services):
    services.bases.engine()
    others = [services.manager.request("chat", f"other{n}", "Answering", 1) for n in range(CAPACITY["chat"])]
    stream = services.compare.ask([Side("base")], [[]], "Hello", SHORT)
    next(stream)
    assert next(stream)[0].waiting.startswith("1st in line, about")
    left = services.completion.complete(chat(), "me")
    assert next(left)[0].waiting.startswith("2nd in line")
    assert len(services.manager.queue()) == 2
    left.close()
    assert len(services.manager.queue()) == 1, "closing it in the queue leaves the queue"
    for other in others:
        other.cancel()
    assert last(stream)[0].done


def test_an_adapter_a_full_model_and_the_base_side_by_side(services, make_lora, tiny_base):
    lora = services.adapters.import_file(make_lora(5)).id
    made = [lora, whole_model(services, tiny_base, noise=0.2)]
    replies = last(services.compare.ask([Side("base"), *map(Side, made)], [[], [], []], "Say 3", SHORT))
    assert all(reply.done and not reply.error for reply in replies)
    assert len({reply.text for reply in replies}) == 3
    assert {row.card.id for row in services.adapters.list() if row.attached} == set(made)
    switch = services.adapters.switch(lora)
    assert switch.unchanged
    assert switch.fingerprint == services.bases.state().fingerprint
    refused("whole model", services.adapters.switch, "whole")
    for model in made:
        services.adapters.remove(model)
    assert not any(row.attached for row in services.adapters.list())


def test_sides_are_read_from_words_with_their_form_whose_pattern_may_hold_commas(tmp_path):
    (tmp_path / "p.txt").write_text("Be brief.\n")
    side = parse_side(f"model=base,prompt={tmp_path / 'p.txt'},shots=2,name=Told", tmp_path / "rows.jsonl")
    assert (side.model, side.system_prompt, side.shots, side.label) == ("base", "Be brief.", 2, "Told")
    shots = ("model=base,shots=2", "model=base,shots=x")
    for wrong in ("", "base", "prompt=x", *shots, "model=base,prompt=/nowhere", "model=a,model=b"):
        refused("", parse_side, wrong)
    schema = tmp_path / "order.json"
    schema.write_text('{"type": "object", "required": ["id"]}')
    side = parse_side(f"model=base,format=json-schema:{schema},name=Held")
    found = Side("base", "Be glad.", 2, schema, picked=(9, 4))
    assert parse_side("model=base,prompt=best,shots=best,name=X", None, lambda: found) == replace(found, name="X")
    assert parse_side("model=base,shots=2,pick=9+4", schema) == replace(found, system_prompt="")
    assert side_from(json.loads(json.dumps(side_as_json(found)))).picked == (9, 4)
    for wrong in ("prompt=best", "shots=2,pick=9+x", "shots=3,pick=9+4", "shots=2,pick=4+4"):
        refused("", parse_side, f"model=base,{wrong}", schema)
    assert (side.format, side.label) == ('json-schema:{"type":"object","required":["id"]}', "Held")
    assert parse_side("model=base,format=regex:a{2,3}, b,shots=0").format == "regex:a{2,3}, b"
    assert parse_side("model=base,format=json").label == "base + form"
    assert parse_side("model=base,format=references", schema).shots_from == schema
    for wrong in ("xml", "json-schema:/nowhere.json", "regex:(?=a)b", "references"):
        refused("", parse_side, f"model=base,format={wrong}")


HELLO = (Message("user", "Hello"),)


def chat(**options):
    return Chat(**({"model": "base", "messages": HELLO, "sampling": Sampling(max_tokens=6, ignore_eos=True)} | options))


def written_by(services, **options):
    """What is written of the chat with these options."""
    return last(services.completion.complete(chat(**options), "me"))


ENDS = "(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
UNSLOTH = rf"(?:.*?text.*?(?:attn|mlp).*?{ENDS}.*?)|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:self_attn|mlp)\.(?:{ENDS}))"
MAPPING = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
TEXT = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Answer:", "tokenizer_name_or_path": "some/base"}
SOME = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
IMPORTED = {  # name, which begins with the kind: (PEFT's options, what its config says beside them as it comes)
    **dict.fromkeys(("lora", "ia3", "prefix", "deep", "prompt", "ptuning", "bottleneck"), ({}, {})),
    **{"dora": ({"use_rslora": True}, {}), "lora-rs": ({"use_rslora": True}, {}), "lora-one": (SOME | {"r": 1}, {})},
    "lora-unsloth": (
        {"rank_pattern": {"up_proj": 6}},
        {"auto_mapping": MAPPING, "task_type": None, "target_modules": UNSLOTH},
    ),
    "lora-ranks": ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {r"layers\.1\..*k_proj": 40}}, {}),
    "lora-deep": (SOME | {"layers_to_transform": [1]}, {}),
    "lora-but": ({"exclude_modules": ".*k_proj"}, {"revision": "step-100"}),
    "lora-orthogonal": ({}, {"init_lora_weights": "orthogonal"}),
    "lora-eva": ({}, {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}),
    "lora-half": ({}, {}),
    "lora-copies": ({}, {}),
    "lora-mlx": (SOME, {}),
    "dora-mlx": (SOME, {}),
    "ia3-names": ({"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, {}),
    "prompt-text": ({}, TEXT),
}


def left_by_mlx(name, tensors, folder):
    ends = {".lora_A.weight": ".lora_a", ".lora_B.weight": ".lora_b", ".lora_magnitude_vector": ".m"}
    turned = {}
    for key, tensor in tensors.items():
        end = next(end for end in ends if key.endswith(end))
        turned[key.removeprefix("base_model.model.").replace(end, ends[end])] = tensor.t().contiguous()
    folder.mkdir()
    save_file(turned, folder / "adapters.safetensors")
    about = {"fine_tune_type": name[:4], "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(about))


def as_it_comes(name, folder, config, base):
    """An adapter of PEFT as another tool leaves it: with these settings, in half precision, with copies of the base."""
    left, tensors = folder.with_name(f"{name}-left"), load_file(folder / "adapter_model.safetensors")
    if name.endswith("mlx"):
        left_by_mlx(name, tensors, left)
        return left
    if name == "lora-half":
        save_file({key: held.half() for key, held in tensors.items()}, folder / "adapter_model.safetensors")
    edited(folder, left, **config)
    if name == "lora-copies":
        own = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
        copies = {f"base_model.model.{to}.weight": own.clone() for to in ("lm_head", "model.embed_tokens")}
        save_file(tensors | copies, left / "adapter_model.safetensors")
    return left


def test_adapters_of_every_kind_as_they_come_are_imported_and_say_what_peft_says(services, tmp_path):
    """Made by PEFT alone, left as other tools leave them, taken in as from a person, and served."""
    services.bases.engine()
    base = services.bases.resolve().path
    ids = encode(services.bases.tokenizer(), render_prompt(services.bases.tokenizer(), HELLO))
    named = {"deep": "p-tuning-v2", "ptuning": "p-tuning"}
    said, long = set(), Sampling(max_tokens=1020, ignore_eos=True)
    for seed, (name, (options, config)) in enumerate(IMPORTED.items()):
        kind = name.partition("-")[0]
        folder = save_adapter(base, tmp_path / name, kind, seed, **options)
        card = services.adapters.import_file(as_it_comes(name, folder, config, base))
        assert card.method == named.get(kind, kind)
        (end,) = written_by(services, sampling=Sampling(max_tokens=6), model=card.id)
        assert list(end.state.tokens) == said_by(with_adapter(load_base(base), folder), ids, 6).tokens, name
        assert (end.state.prompt_tokens, end.stamp["adapter"]) == (len(ids), card.id)
        if kind == name and (before := card.virtual_tokens):
            (cut,) = written_by(services, sampling=long, model=card.id, fit=True)
            assert cut.state.prompt_tokens + cut.state.completion_tokens + before == 1024
            words = f"{before} of them the adapter's, .* this base holds 1024"
            refused(words, written_by, services, sampling=long, model=card.id)
        said.add(end.state.tokens[:6])
    assert len(said) == len(IMPORTED) > 20, "no two say the same"


def test_what_runs_is_known_from_the_start_closing_it_frees_the_device_and_what_cannot_be_asked_is_said(services):
    services.bases.engine()
    stream = services.completion.complete(chat(sampling=Sampling(max_tokens=900, ignore_eos=True), replies=4), "me")
    assert [one.stamp["rows"] for one in next(stream)] == [4] * 4
    next(stream)
    assert [lease.session for lease in services.manager.leases()] == ["me"]
    stream.close()
    assert services.manager.leases() == services.manager.queue() == []
    written = written_by(services, sampling=Sampling(max_tokens=2, seed=SEED_MAX), replies=3)
    assert [one.stamp["seed"] for one in written] == [SEED_MAX, 0, 1], "each takes the next seed"
    refused(r"There is no model 'nobody'\. There is: base", services.completion.card, "nobody", error=NotFoundError)
    refused("1 to 4", chat, replies=5)
    services.bases.engine()
    most = Sampling(max_tokens=1020, min_tokens=1010)
    refused("this base holds 1024", written_by, services, sampling=most, fit=True)
    for question, words in (("  ", "Write a question"), ("x" * 30_000, "at most 20000")):
        refused(words, next, services.compare.ask([Side("base")], [[]], question, SHORT))


PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."


def ask(services, tokens=4, count=1):
    written = last(services.batches.run([Asked(None, PROMPT, Sampling(max_tokens=tokens))] * count, "a"))
    assert all(one.failure is None for one in written)
    services.bases.engine().worker.run(lambda: None)  # the round that told of the last reply has ended
    return written


def test_what_was_read_is_forgotten_and_the_reply_stays_the_same(services):
    services.batches.forget()
    assert services.bases.loaded is None, "nothing is loaded for it"
    first = ask(services)[0].state.text
    way = services.bases.engine().backend.scheduler
    assert way.prefix_cache.bytes > 0
    services.batches.forget()
    assert (way.prefix_cache.bytes, ask(services)[0].state.text, way.cached_tokens) == (0, first, 0)
    ask(services)
    assert way.cached_tokens > 0


def test_a_batch_asks_for_room_as_it_grows_and_what_stays_is_known(services, tiny_base):
    row = STEP * kv_bytes_per_token(tiny_base, 4)
    asked = [Asked(None, PROMPT, Sampling(max_tokens=4))]
    long = Asked(None, PROMPT, Sampling(max_tokens=STEP))
    for batch, rows in ((asked * 3, 3), ([*asked, long], 2 * 2), (asked, 1)):
        with contextlib.closing(services.batches.run(batch, "a")) as run:
            assert next([lease.bytes for lease in services.manager.leases()] for _ in run) == [rows * row]
    ask(services)
    assert services.bases.engine().backend.scheduler.kv_cache.bytes <= row
    ask(services, tokens=40, count=4)
    ask(services)
    (there,), (name, weights) = services.manager.residents(), services.bases.resident()
    assert there.name == name
    assert there.bytes >= weights + services.bases.engine().backend.scheduler.kv_cache.bytes
    assert services.manager.leases() == []


HEAD = "adapts lm_head, which lies outside the decoder's layers"


@pytest.fixture
def head(services, make_lora):
    """An adapter on the base's head, in the library since before import refused such."""
    folder = services.settings.adapters_dir / "head"
    shutil.copytree(make_lora(8, target_modules=["q_proj", "lm_head"]), folder)
    weights = folder / "adapter_model.safetensors"  # PEFT saves the embeddings with it, which import has always refused
    save_file({name: tensor for name, tensor in load_file(weights).items() if "lora_" in name}, weights)
    return folder.name


def test_an_adapter_that_overflows_or_cannot_be_read_any_more_fails_alone(services, make_lora, tmp_path):
    alone = ask(services)[0].state.tokens
    card = services.adapters.import_file(make_lora(3))
    services.adapters.attach(card.id)
    poison(services.bases.engine(), card.path, 3e38, card.id)
    asked = [Asked(one, PROMPT, Sampling(max_tokens=4)) for one in (None, card, None)]
    left, broken, right = last(services.batches.run(asked, "a"))
    assert [(one.state.tokens, one.failure) for one in (left, right)] == [(alone, None)] * 2
    assert broken.done
    assert f"{card.id} makes numbers overflow" in str(broken.failure)
    mine = services.adapters.import_file(make_lora(9)).id
    gone = services.adapters.import_file(Path(shutil.copytree(make_lora(10), tmp_path / "gone"))).id
    services.bases.engine()
    card = services.adapters.get(gone)
    (card.path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    asked = [Asked(one, "Hello", SHORT) for one in (services.adapters.get(mine), card, None)]
    assert [one.failure is None for one in last(services.batches.run(asked, "a"))] == [True, False, True]


def test_all_who_meet_an_adapter_that_is_refused_say_the_same(services, head, rows_file, make_lora, asked):
    services.bases.engine()
    (row,) = [row for row in services.adapters.list() if row.card.id == head]
    assert (row.usable, HEAD in row.reason) == (False, True)
    assert head not in {card.id for card in services.completion.models()}
    refused(HEAD, services.adapters.import_file, services.settings.adapters_dir / head)
    more = TrainRequest(rows_file, "more", steps=1, start=head, method="lora")
    refused(HEAD, services.training.start, more)
    refused(HEAD, last, services.exporter.export(head, "merged"))
    refused(HEAD, services.adapters.attach, head)
    refused(HEAD, services.verdicts.start, replace(asked, sides=(Side("base"), Side(head))))
    sound = services.adapters.import_file(make_lora(9)).id
    base, broken, mine = last(services.compare.ask([Side("base"), Side(head), Side(sound)], [[]] * 3, "Hello", SHORT))
    assert HEAD in broken.error
    assert (base.error, mine.error) == ("", "")
    assert base.completion_tokens == mine.completion_tokens == 6
    sides = [Side("base"), Side(head)]
    replies = all_replies(services.compare, sides, ["Hello", "And then?"], SHORT)
    told = [(reply["side"], reply["turn"], "error" in reply) for reply in replies]
    assert told == [("base", 0, False), (head, 0, True), ("base", 1, False)]
    assert replies[2]["text"]
    refused(rf"{head}: .*{HEAD}", all_replies, services.compare, sides[1:], ["Hello"], SHORT, error=RunFailedError)


def test_models_that_do_not_fit_together_answer_one_after_another(services, tiny_base):
    services.bases.engine()
    budget = int(1.6 * services.bases.resident()[1]) + 1024 * kv_bytes_per_token(tiny_base, 4)
    home = services.settings.home.parent / "tight"
    tight = build_services(replace(services.settings, home=home, budget_bytes=budget))
    whole = tight.adapters.get(whole_model(tight, tiny_base))
    asked = [Asked(whole, "Hello", SHORT), Asked(None, "Hello", SHORT)]
    first, second = last(tight.batches.run(asked, "a"))
    assert [one.state.completion_tokens for one in (first, second)] == [6, 6], (first.failure, second.failure)
    assert first.state.text == second.state.text
    tight.close()


def test_another_base_answers_beside_the_one_in_use_with_a_template_tokenizer_and_stamp_of_its_own(services, qwen):
    other = f"base:{qwen}"
    sides = [Side("base"), Side(other, "Be brief."), parse_side(f"model={other},format=json")]
    plain, told, held = replies = all_replies(services.compare, sides, ["Hello"], SHORT)
    assert [one["side"] for one in replies] == ["base", "base:qwen + prompt", "base:qwen + form"]
    fingerprint = file_fingerprint(qwen)
    for one in (told, held):
        stamp = [one["stamp"][name] for name in ("base", "base_name", "adapter", "rows")]
        assert stamp == [fingerprint, "qwen", None, 2]
    prompt = "[system]Be brief.<eos>[user]Hello<eos>[assistant]"
    assert (told["stamp"]["prompt"]["text"], plain["stamp"]["rows"]) == (prompt, 1)
    assert told["prompt_tokens"] == len(prompt) - 2 * (len("<eos>") - 1), "its tokens are bytes"
    assert services.compare.prompt_tokens("Hello", other) == len("Hello") > services.compare.prompt_tokens("Hello")
    assert {one.name for one in services.manager.residents()} == {services.bases.spec, other}
    assert [card.id for card in services.completion.models()] == [other], "a folder that was asked is known then"
    found = services.replay.again(read_saved(told)[0])
    assert (found["same"], found["notes"]) == (True, [])
    assert last(services.completion.complete(chat(model=other), "me"))[0].state.text
    assert services.adapters.model(f"base:{services.bases.spec}") is None, "the base in use is no other one"
    refused(f"There is: base, {other}", services.adapters.model, "base:owner/none")
    refused("whoever runs this app", build_services(replace(services.settings, shared=True)).adapters.model, other)


def test_a_base_that_cannot_be_loaded_or_does_not_fit_beside_fails_its_own_sides_alone(services, qwen, tmp_path):
    broken = shutil.copytree(qwen, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    bare = shutil.copytree(qwen, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    sides = [Side("base"), Side(f"base:{broken}"), Side(f"base:{bare}"), Side(f"base:{qwen}")]
    plain, cut, mute, other = last(services.compare.ask(sides, [[]] * 4, "Hello", SHORT))
    assert (plain.error, other.error) == ("", "")
    assert cut.error
    assert "has no tokenizer" in mute.error
    room = services.bases.resident()[1]
    room += STEP * (kv_bytes_per_token(services.bases.folder(), 4) + kv_bytes_per_token(qwen, 4))
    tight = build_services(replace(services.settings, home=tmp_path / "tight", budget_bytes=room))
    first, second = last(tight.compare.ask([sides[0], sides[3]], [[]] * 2, "Hello", SHORT))
    assert (first.text, second.text) == (plain.text, other.text), "one after another"
    assert len(tight.manager.residents()) == 1


def test_a_verdict_asks_another_base_as_a_larger_model_and_leaves_its_loss_and_forgetting_out(services, asked, qwen):
    sides = (*asked.sides, Side(f"base:{qwen}", "Be glad.", 2, asked.file, "Other"))
    view = last(services.verdicts.run(replace(asked, sides=sides, limit=4, forgetting=True, max_tokens=0)))
    assert view.state == "DONE", view.error
    assert [side["kind"] for side in view.record["sides"]] == ["base", "prompt", "larger-model"]
    other = [row for row in services.verdicts.rows(view.id) if row["side"] == "Other"]
    assert [row["loss"] for row in other] == [None] * 4
    assert {row["stamp"]["base"] for row in other} == {file_fingerprint(qwen)}
    assert {row["completion_tokens"] for row in other} == {24}, "as long as the references are in its own tokens"
    assert view.record["sides"][2]["metrics"].keys() >= {"pass", "seconds"}
    assert view.record["forgetting"] == {}
    written = services.verdicts.files.write(view.id, "html", services.settings.home).read_text()
    assert f"another base, {file_fingerprint(qwen)[:8]}, whose loss and forgetting are left out" in written
    weak = next(guard["sentence"] for guard in view.record["guards"] if guard["name"] == "weak-base")
    assert "Try a larger base: " in weak
    assert " fits this device (" in weak


def test_a_verdict_leaves_a_side_out_that_cannot_answer_and_judges_the_rest(services, asked):
    long = Side("base", LONG, name="Long")
    view = last(services.verdicts.run(replace(asked, sides=(*asked.sides, long), limit=4, repeats=2)))
    assert view.state == "DONE", view.error
    assert view.error.startswith("Long was left out: The prompt is ")
    assert [side["side"] for side in view.record["sides"]] == ["Base", "Base + prompt"]
    assert (view.record["examples"], list(view.record["failed"])) == (4, ["Long"])
    scored = {(row["side"], row["loss"] > 0) for row in services.verdicts.rows(view.id)}
    assert scored == {("Base", True), ("Base + prompt", True)}
    alone = last(services.verdicts.run(replace(asked, sides=(long,), limit=4)))
    assert (alone.state, "Long: The prompt is" in alone.error) == ("FAILED", True)
