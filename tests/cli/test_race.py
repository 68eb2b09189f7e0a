"""``race`` and ``races`` as a person calls them."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_cli import Call, call, rows_file

__all__ = ["call", "rows_file"]


def test_a_race_from_start_to_table_and_again_later(call: Call, rows_file: Path) -> None:
    words = (
        "race",
        rows_file,
        "--methods",
        "ia3,lora",
        "--steps",
        1,
        "--batch-size",
        4,
        "--check",
        "contains:gladly",
        "--name",
        "Two",
    )
    code, found, told = call(*words, timeout=400)
    assert code == 0, told
    assert [row["method"] for row in found["rows"]] == ["lora", "ia3"]
    assert all(row["state"] == "DONE" and row["forgot"]["questions"] == 40 and row["asked"] == 2 for row in found["rows"])
    assert "left" in told
    code, listed, _ = call("races")
    assert (code, [race["state"] for race in listed["races"]]) == (0, ["DONE"])
    code, shown, _ = call("races", "show", found["race"])
    assert (code, shown) == (0, found)
    code, gone, _ = call("races", "remove", found["race"])
    assert (code, gone) == (0, {"removed": found["race"]})
    code, _, told = call("races", "show", found["race"])
    assert code == 2
    assert "There is no race" in told


def test_a_wrong_call_is_told(call: Call, rows_file: Path) -> None:
    for words, said in (
        (("race", rows_file, "--methods", "lora,magic"), "There is no method 'magic'"),
        (("race", rows_file, "--methods", "lora"), "two methods or more"),
        (("race", rows_file, "--check", "nonsense"), "is not a check"),
    ):
        code, found, told = call(*words)
        assert code == 2
        assert said in told
        assert said in found["error"]
