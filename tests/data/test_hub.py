"""Data sets read through ``datasets``: folders like those of the hub, and what is said where one cannot be read."""

import json
import os
import socketserver
import subprocess
import sys
import threading

import pytest

from playground.cli.main import main
from playground.data.check import check_file
from playground.data.files import MOST_ENTRIES
from playground.data.hub import FIRST, DatasetId, parse_dataset, write_dataset
from playground.errors import CancelledError
from playground.services import build_services
from playground.settings import PROJECT_ROOT, Settings
from tests.data.conftest import lines, pair, put
from tests.refused import refused

README = """---
configs:
- config_name: short
  data_files: [{{split: train, path: short.jsonl}}]
- config_name: bad
  data_files: [{{split: train, path: {outside}}}]
---
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``owner/set`` below the working folder: two splits with class labels."""
    import datasets

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "owner" / "set"
    for split, count in (("train", FIRST + 5), ("test", 20)):
        rows = {"text": [f"{split} {n}" for n in range(count)], "label": [n % 2 for n in range(count)]}
        labels = datasets.ClassLabel(names=["ham", "spam"])
        rows |= {"kinds": [[0, 1]] * count, "picture": [{"path": "a.png", "bytes": b"\0"}] * count}
        kinds = {"text": datasets.Value("string"), "label": labels}
        features = datasets.Features(kinds | {"kinds": datasets.List(labels), "picture": datasets.Image()})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "data" / f"{split}-0.parquet")
    return root


def written(text, folder, limit_bytes=1_000_000, first=FIRST):
    dataset = parse_dataset(text)
    assert dataset is not None
    found = write_dataset(dataset, folder / "out.jsonl", limit_bytes, first)
    rows = [*map(json.loads, (folder / "out.jsonl").read_text().splitlines())]
    assert len(rows) == found.rows
    return rows


NO_IDS = """
name folder/rows.csv folder/rows.csv.gz ../owner/name owner/na..me /owner/name https://example.com/owner/name
owner/name/more owner/name@a-b owner/name: ówner/name owner/name#../x https://huggingface.co/owner/name
https://huggingface.co.example.com/datasets/owner/name https://huggingface.co/datasets/owner/na..me
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *((text, None) for text in (*NO_IDS.split(), "owner/name\n", "owner/\0")),
        ("owner/name", DatasetId("owner/name")),
        ("owner/name:de@test", DatasetId("owner/name", "de", "test")),
        ("owner/name@train", DatasetId("owner/name", "", "train")),
        ("owner/name#refs/pr/1", DatasetId("owner/name", "", "", "refs/pr/1")),
        ("https://huggingface.co/datasets/owner/name", DatasetId("owner/name")),
        ("https://hf.co/datasets/owner/name/viewer/de/test?row=3", DatasetId("owner/name", "de", "test")),
        ("https://huggingface.co/datasets/owner/name/tree/v1.0/", DatasetId("owner/name", revision="v1.0")),
        ("hf://datasets/owner/name@v1", DatasetId("owner/name", revision="v1")),
    ],
)
def test_what_is_an_id_of_the_hub(text, found):
    assert parse_dataset(text) == found


def test_a_folder_is_read_by_split_with_labels_by_name(folder, tmp_path):
    first, second, *_ = written("owner/set@test", tmp_path)
    assert [first["text"], first["label"], second["text"], second["label"]] == ["test 0", "ham", "test 1", "spam"]
    assert (first["kinds"], first["picture"]) == ("ham, spam", {"path": "a.png"})
    assert (len(written("owner/set", tmp_path)), len(written("owner/set", tmp_path, first=3))) == (FIRST, 3)
    refused("from 1 to", written, "owner/set", tmp_path, first=0)
    refused("more than the size limit", written, "owner/set", tmp_path, 1000)
    refused("There are: train, test", written, "owner/set@dev", tmp_path)
    (tmp_path / "plain" / "data").mkdir(parents=True)  # whose features nobody wrote down
    put(tmp_path / "plain" / "data", "train.csv", "prompt,completion\nq,a\n")
    assert written("plain@train", tmp_path) == [{"prompt": "q", "completion": "a"}]
    put(folder, "rows.csv", "prompt,completion\nq,a\n")
    assert parse_dataset("owner/set") is None  # a folder of files, as ever


def test_a_folder_of_too_much_is_refused_before_it_is_looked_through(tmp_path):
    (inside := tmp_path / "home" / "data").mkdir(parents=True)
    for n in range(MOST_ENTRIES + 1):
        (inside / f"{n}").mkdir()
    for name in (tmp_path / "home", inside, f"{tmp_path}/home@train"):
        refused("home.* holds more than 10,000 files and folders. Name the folder that holds", parse_dataset, str(name))
    refused("data holds more than 10,000 files", check_file, inside)


def test_configs_and_files_outside(folder, tmp_path):
    secret = put(tmp_path, "secret.jsonl", lines(pair(1, 1)))
    put(folder, "README.md", README.format(outside=secret))
    put(folder, "short.jsonl", lines(pair(1, 1)) + "\n")
    assert written("owner/set:short", tmp_path) == [pair(1, 1)]
    for config, says in ((":bad", "names a file outside itself"), ("@train", "short")):
        refused(says, written, f"owner/set{config}", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data/train.tar", b"x", "holds webdataset files; arrow, csv, json, parquet, text are read"),
        ("set.py", b"raise SystemExit('run')", "cannot be read"),
        ("data/train.parquet", b"PAR1 damaged PAR1", "cannot be read"),
        ("data/train.jsonl", '{"prompt":' + "[" * 50_000 + "]" * 50_000 + "}\n", "breaks its decoder"),
        ("README.md", "---\nconfigs: !!python/object/apply:os.system [ls]\n---\n", "cannot be read"),
        ("README.md", "---\nconfigs: [{config_name: a, data_files: 'zip://x.csv::set.zip'}]\n---\n", "cannot be read"),
    ],
)
def test_what_is_not_plain_data_is_refused(name, content, says, tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    put(tmp_path / "set", name, content)
    refused(says, written, f"{tmp_path / 'set'}@train", tmp_path)


def test_the_command_line_reads_a_folder_or_says_that_the_hub_is_away(folder, tmp_path, monkeypatch, capsys, tiny_base):
    monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path / "home"))
    assert main(["check", "owner/set@test", "--base", str(tiny_base), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["rows"], found["good"], found["objective"]) == (20, 20, "sft")
    for verb in ("check", "train"):
        assert main([verb, "nobody/nothing", "--base", str(tiny_base)]) == 2
        assert "The hub cannot be reached for the data set nobody/nothing" in capsys.readouterr().err


def test_a_hub_that_does_not_answer_is_asked_once_and_said(tmp_path):
    """The library's own retries would take 20 seconds."""
    asked = []

    class Closes(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(100))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closes) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HUB_OFFLINE": "0"}
        environment |= {"PLAYGROUND_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "playground", "check", "nobody/nothing"]
        done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
        hub.shutdown()
    assert done.returncode == 2
    assert done.stderr.startswith("The hub cannot be reached for the data set nobody/nothing")
    assert len([one for one in asked if b"nobody/nothing" in one]) == 1


def test_fetching_can_be_stopped_and_leaves_nothing_and_visitors_of_a_shared_app_fetch_nothing(folder, tmp_path):
    def stop(_):
        raise CancelledError("Stopped.")

    services = build_services(Settings(home=tmp_path / "home"))
    with pytest.raises(CancelledError):
        services.data.fetch("owner/set", "local", stop)
    assert [one for one in (tmp_path / "home" / "uploads").rglob("*") if one.is_file()] == []
    services.close()
    services = build_services(Settings(home=tmp_path / "home", shared=True))
    refused("not fetched here", services.data.fetch, "owner/set", "v" + "0" * 24)
    file, said = services.data.fetch("owner/set@test", "local")
    assert file.read_text().count("\n") == 20
    assert said == "Read: all 20 rows of the split test of owner/set. Other splits: train."
    services.close()
