"""Data sets read through ``datasets``: local folders laid out like those of the hub, and what is said where one cannot
be read."""

import json

import pytest

from playground.cli.main import main
from playground.data.hub import MAX_ROWS, DatasetId, parse_dataset, write_dataset
from playground.services import build_services
from playground.settings import Settings
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
    for split, count in (("train", MAX_ROWS + 5), ("test", 20)):
        rows = {"text": [f"{split} {n}" for n in range(count)], "label": [n % 2 for n in range(count)]}
        labels = datasets.ClassLabel(names=["ham", "spam"])
        features = datasets.Features({"text": datasets.Value("string"), "label": labels})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "data" / f"{split}-0.parquet")
    return root


def written(text, folder, limit_bytes=1_000_000):
    dataset = parse_dataset(text)
    assert dataset is not None
    count = write_dataset(dataset, folder / "out.jsonl", limit_bytes)
    rows = [*map(json.loads, (folder / "out.jsonl").read_text().splitlines())]
    assert len(rows) == count
    return rows


NO_IDS = """
name folder/rows.csv folder/rows.csv.gz ../owner/name owner/na..me /owner/name https://example.com/owner/name
owner/name/more owner/name@a-b owner/name: ówner/name
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *((text, None) for text in (*NO_IDS.split(), "owner/name\n", "owner/\0")),
        ("owner/name", DatasetId("owner/name")),
        ("owner/name:de@test", DatasetId("owner/name", "de", "test")),
        ("owner/name@train", DatasetId("owner/name", "", "train")),
    ],
)
def test_what_is_an_id_of_the_hub(text, found):
    assert parse_dataset(text) == found


def test_a_folder_is_read_by_split_with_labels_by_name(folder, tmp_path):
    first, second, *_ = written("owner/set@test", tmp_path)
    assert (first, second) == ({"text": "test 0", "label": "ham"}, {"text": "test 1", "label": "spam"})
    assert len(written("owner/set", tmp_path)) == MAX_ROWS
    refused("more than the size limit", written, "owner/set", tmp_path, 1000)
    refused("There are: train, test", written, "owner/set@dev", tmp_path)
    put(folder, "rows.csv", "prompt,completion\nq,a\n")
    assert parse_dataset("owner/set") is None  # a folder of files, as ever


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
    ],
)
def test_what_is_not_plain_data_is_refused(name, content, says, tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    put(tmp_path / "set", name, content)
    refused(says, written, f"{tmp_path / 'set'}@train", tmp_path)


def test_the_command_line_reads_a_folder_and_says_in_one_sentence_that_the_hub_is_away(
    folder, tmp_path, monkeypatch, capsys, tiny_base
):
    monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path / "home"))
    assert main(["check", "owner/set@test", "--base", str(tiny_base), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["rows"], found["good"], found["objective"]) == (20, 20, "sft")
    for verb in ("check", "train"):
        assert main([verb, "nobody/nothing", "--base", str(tiny_base)]) == 2
        assert "The hub cannot be reached for the data set nobody/nothing" in capsys.readouterr().err


def test_nothing_is_fetched_for_a_visitor_of_a_shared_app(folder, tmp_path):
    services = build_services(Settings(home=tmp_path / "home", shared=True))
    refused("not fetched here", services.data.fetch, "owner/set", "v" + "0" * 24)
    assert services.data.fetch("owner/set@test", "local").read_text().count("\n") == 20
    services.close()
