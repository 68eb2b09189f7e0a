from __future__ import annotations

from pathlib import Path

import pytest
import torch

from playground.data.render import Packed, Rendered
from playground.training.objectives.sft import IGNORED, AnswerCollator, TextBlockCollator, answer_loss

ROWS = [Rendered("", "", [5, 6, 7, 8], [9, 10]), Rendered("", "", [11], [12, 13, 14])]


def test_answers_begin_in_one_column() -> None:
    batch = AnswerCollator(0)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 0], [0, 0, 0, 11, 12, 13, 14]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch["position_ids"][1].tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[9, 10, IGNORED], [12, 13, 14]]


def test_a_person_s_later_turn_is_read_and_not_learned() -> None:
    batch = AnswerCollator(0)(
        [Rendered("", "", [5], [6, 7, 8, 9, 10], read=((1, 3),)), Rendered("", "", [11, 12], [13])]
    )
    assert batch["labels"].tolist() == [[6, IGNORED, IGNORED, 9, 10], [13, *[IGNORED] * 4]]


PACKED = [Packed([5, 6, 7, 8, 9], (0, 3)), Packed([10, 11], (0,))]


def test_packed_documents_begin_anew() -> None:
    batch = TextBlockCollator(0)(PACKED)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [10, 11, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[6, 7, IGNORED, 9], [11, IGNORED, IGNORED, IGNORED]]
    assert "attention_mask" not in batch


def test_a_packed_document_is_read_as_if_it_were_alone(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    total, count = 0.0, 0
    for ids in ([5, 6, 7], [8, 9], [10, 11]):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    with torch.no_grad():
        loss = float(answer_loss(model, TextBlockCollator(0)(PACKED)))
    assert loss == pytest.approx(total / count, abs=1e-5)


def test_the_loss_is_that_of_each_row_alone_and_of_the_answer_only(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    total, count = 0.0, 0
    for row in ROWS:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(row.completion_ids), reduction="sum"))
        count += len(row.completion_ids)
    with torch.no_grad():
        loss = float(answer_loss(model, AnswerCollator(0)(ROWS)))
    assert loss == pytest.approx(total / count, abs=1e-5)
