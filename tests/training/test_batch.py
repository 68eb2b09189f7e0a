from __future__ import annotations

from pathlib import Path

import pytest
import torch

from playground.data.render import Rendered
from playground.training.batch import IGNORED, AnswerCollator, answer_loss

ROWS = [Rendered("", "", [5, 6, 7, 8], [9, 10]), Rendered("", "", [11], [12, 13, 14])]


def test_answers_begin_in_one_column() -> None:
    batch = AnswerCollator(0)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 0], [0, 0, 0, 11, 12, 13, 14]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]]
    assert batch["position_ids"][1].tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert batch["labels"].tolist() == [[9, 10, IGNORED], [12, 13, 14]]


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
