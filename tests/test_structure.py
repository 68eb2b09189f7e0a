"""What must stay zero as the code grows, counted by ``benchmarks/structure.py``."""

from benchmarks import structure


def test_public_signatures_at_seams_say_what_they_take():
    assert structure.any_at_seams() == []


def test_the_pages_handlers_answer_by_widget_and_not_by_position():
    assert structure.long_positions() == []


def test_a_broad_except_is_rare():
    assert structure.matches(r"except Exception\b", structure.PACKAGE) <= 25
