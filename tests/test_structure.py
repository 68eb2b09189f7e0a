"""What must stay zero as the code grows, counted by ``benchmarks/structure.py``."""

from benchmarks import structure


def test_seams_say_what_they_take_handlers_answer_by_widget_and_a_broad_except_is_rare():
    assert (structure.any_at_seams(), structure.long_positions()) == ([], [])
    assert structure.matches(r"except Exception\b", structure.PACKAGE) <= 25
