from __future__ import annotations

from pathlib import Path

from playground.server.gate import ALL_UPLOADS, FILES_MAX, VISITOR_UPLOADS, WAITS_S, Incoming


def test_a_visitor_has_a_share_of_what_waits_and_gets_it_back_once_it_is_gone(tmp_path: Path) -> None:
    now = [0.0]
    incoming = Incoming(tmp_path, 100, lambda: now[0])
    for _ in range(VISITOR_UPLOADS):
        assert incoming.refusal("anna", 100) == ""
    assert "Wait a little" in incoming.refusal("anna", 1)
    assert incoming.refusal("", 100) == "", "those without a cookie have a share together"
    now[0] = WAITS_S - 1
    assert incoming.refusal("anna", 1)
    now[0] = WAITS_S
    assert incoming.refusal("anna", VISITOR_UPLOADS * 100) == ""


def test_all_together_have_a_share_too(tmp_path: Path) -> None:
    now = [0.0]
    incoming = Incoming(tmp_path, 100, lambda: now[0])
    for n in range(ALL_UPLOADS):
        assert incoming.refusal(f"visitor {n}", 100) == ""
    assert "Too many files" in incoming.refusal("one more", 1)
    now[0] = WAITS_S
    assert incoming.refusal("one more", 1) == ""


def test_many_small_files_are_too_many(tmp_path: Path) -> None:
    assert not Incoming(tmp_path / "not there yet", 100).is_crowded()
    for n in range(FILES_MAX - 1):
        (tmp_path / str(n)).touch()
    assert not Incoming(tmp_path, 100).is_crowded()
    (tmp_path / "last").touch()
    assert Incoming(tmp_path, 100).is_crowded()
