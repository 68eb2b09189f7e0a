"""What every test may use: a home of its own, and a tiny random model with the default base's first tokens."""

import ast
import gc
import json
import os
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from playground.library.bases import resolve
from playground.settings import PROJECT_ROOT, Settings

FIRST = ("tests/e2e/", "tests/services/", "tests/training/", "tests/cli/", "tests/engine/")
"""What takes longest, so that no process ends with it while the other has nothing left to do."""
TOKENS = 4096


class Scheduling(LoadFileScheduling):
    """A file to a process; the browser's files all to one: an app and a browser take more than a core already."""

    def _split_scope(self, nodeid):
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: [not item.nodeid.startswith(start) for start in FIRST])


def pytest_collection_finish(session):
    """What is imported by now stays: an engine that is closed collects garbage, half a second each time otherwise."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path, config):
    """What is long (``soak``) runs only where ``-m`` speaks of it."""
    return True if "soak" in collection_path.parts and "soak" not in config.option.markexpr else None


@cache
def trees():
    """Every file of the package, parsed: seconds, which no process spends that only collects."""
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((PROJECT_ROOT / "playground").rglob("*.py"))
    }


@pytest.fixture(scope="session")
def real_home(tmp_path_factory):
    """Where the default base is prepared once: PLAYGROUND_HOME, if set, keeps it for later runs."""
    named = os.environ.get("PLAYGROUND_HOME")
    return Path(named) if named else tmp_path_factory.mktemp("real-home")


@pytest.fixture(scope="session")
def real_base(real_home):
    """The real default base, through the project's own resolver."""
    return resolve("smollm2-135m", Settings(home=real_home))


@pytest.fixture(scope="session")
def tiny_base(real_base, tmp_path_factory):
    """A random two-layer Llama, 64 wide, with the first of the real tokenizer's 49,152 tokens."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("bases") / "tiny"
    AutoTokenizer.from_pretrained(real_base.path).save_pretrained(folder)
    file = folder / "tokenizer.json"
    pieces = json.loads(file.read_text(encoding="utf-8"))
    model = pieces["model"]
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if id < TOKENS}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    file.write_text(json.dumps(pieces), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 1024, "vocab_size": len(tokenizer)}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(**sizes, **tokens, tie_word_embeddings=True, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """Another base: a random Qwen2 that reads bytes, with a chat template of its own."""
    from tests.engine.models import save_base

    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}[assistant]"
    folder = save_base("qwen2", tmp_path_factory.mktemp("others") / "qwen")
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def settings(tmp_path, tiny_base):
    """A fresh home on the tiny base."""
    return Settings(home=tmp_path / "home", base=str(tiny_base))
