"""``bench`` as a person calls it, on the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import Call, call, rows_file

__all__ = ["call", "rows_file"]


def test_bench(call: Call, rows_file: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("Be glad.")
    second.write_text("Say the number, and be brief.")
    words = ("bench", rows_file, "--prompt", first, "--prompt", second, "--shots", "0,1", "--check", "contains:gladly")
    code, found, said = call(*words, "--limit", 2, "--max-tokens", 4)
    assert code == 0, said
    assert [(side["side"], side["version"], side["shots"]) for side in found["sides"]] == [
        ("v1", "v1", 0), ("v1 + 1 shot", "v1", 1), ("v2", "v2", 0), ("v2 + 1 shot", "v2", 1),
    ]  # fmt: skip
    assert found["metric"] == "contains:gladly"
    assert found["examples"] == 2
    assert {side["n"] for side in found["sides"]} == {2}
    assert found["best"]["prompt"] in (first.read_text(), second.read_text())
    assert found["best"]["sentence"].startswith("The best of 4 (2 prompts, with 0 or 1 shots) on 2 validation rows: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere.csv", "--prompt", "{file}"), "There is no file"),
        (("{file}", "--prompt", "nowhere.txt"), "cannot be read"),
        (("{file}", "--prompt", "{file}", "--shots", "0,many"), "--shots takes whole numbers"),
        (("{file}", "--prompt", "{file}", "--check", "nonsense"), "is not a check"),
        (("{file}",), "--prompt"),
    ],
)
def test_a_wrong_call_is_one_message_and_exit_2(call: Call, rows_file: Path, words: tuple[str, ...], told: str) -> None:
    code, found, said = call("bench", *(word.replace("{file}", str(rows_file)) for word in words))
    assert code == 2
    assert told in said
    assert told in found["error"]
    assert "Traceback" not in said
