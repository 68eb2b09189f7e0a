"""What the errors of several libraries mean, from the real ones where they can be had; and what would have fitted."""

import errno
import multiprocessing
import re
import resource
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from playground.errors import InputError, RunFailedError
from playground.training.failure import DISK, MEMORY, OTHER, estimated, explain, oom_advice, reason_of, smallest_bytes
from playground.training.model import own_bytes
from tests.training.conftest import PLAIN

SHAPES = {
    "model.embed_tokens.weight": (49152, 576),
    **{f"model.layers.{n}.mlp.{part}.weight": (1536, 576) for n in range(30) for part in ("gate", "up", "down")},
}
FULL = {"method": "full", "rank": 0, "batch_size": 1, "tokens_p95": 64, "answer_max": 32, "max_tokens": 64}
CAUSED = InputError("It could not be put in place.")
CAUSED.__cause__ = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "full"), DISK),
        (OSError(errno.EFBIG, "too large"), DISK),
        (OSError(errno.ENOENT, "gone"), OTHER),
        (CAUSED, DISK),
        (RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file"), DISK),
        (Exception("I/O error: No space left on device (os error 28)"), DISK),
        (MemoryError(), MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (ValueError("a wrong value"), OTHER),
        (RunFailedError("The loss is no longer a number, out of memory of it."), OTHER),
    ],
)
def test_reasons(error, reason):
    assert reason_of(error) == reason


def test_what_libraries_say_of_a_full_disk_and_no_memory_and_the_words_carry_figures(tmp_path):
    """A limit on the size of files is the same fault to a library as a full disk, and needs no disk of its own."""
    with multiprocessing.get_context("fork").Pool(1) as fork:
        assert fork.apply(said_by_libraries, (tmp_path / "file",)) == [DISK, DISK, DISK, MEMORY]
    _, words = explain(OSError(errno.ENOSPC, "full"), None, tmp_path)
    assert "The disk is full" in words
    assert "B free" in words
    assert explain(ValueError("one\ntwo"), None, tmp_path)[1] == "Training stopped: ValueError: one"


def said_by_libraries(file):
    """What is made of each error, in a process that may write no large file and take no more memory."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    large, more = torch.zeros(9_000_000), (own_bytes("VmData") or 0) + 10**9

    def starved():
        resource.setrlimit(resource.RLIMIT_DATA, (more, more))
        torch.zeros(10**9)

    def reason(act):
        with pytest.raises(Exception) as error:  # noqa: PT011
            act()
        return reason_of(error.value)

    full = (
        partial(torch.save, large, file),
        partial(save_file, {"a": large}, file),
        partial(file.write_bytes, bytes(3 * 10**7)),
    )
    return [reason(act) for act in (*full, starved)]


SIZES = {"batch_size": 64, "max_tokens": 1024, "rows": 500, "tokens_p95": 800, "answer_max": 400}
SPEC = replace(PLAIN, steps=10, rank=8, **SIZES)


def needs(spec):
    return estimated(spec, SHAPES, spec.method, spec.batch_size, spec.accumulate, spec.max_tokens)


@pytest.mark.parametrize(
    ("changes", "share", "named", "words"),
    [
        ({}, 1 / 3, ("lora", 64, 4, 1024), "its batch computed in 4 parts (--accumulate 4)"),
        ({"objective": "kto"}, 1 / 3, ("lora", 16, 1, 1024), "a batch of 16 rows (--batch-size 16)"),
        ({"batch_size": 1}, 0.9, ("lora", 1, 1, 400), "a limit of 400 tokens (--max-tokens 400)"),
        (FULL, 0.7, ("lora", 1, 1, 64), "LoRA (--method lora)"),
    ],
)
def test_first_more_parts_or_fewer_rows_then_a_shorter_limit_then_another_method(changes, share, named, words):
    spec = replace(SPEC, **changes)
    found = oom_advice(spec, SHAPES, int(share * needs(spec)))
    assert found is not None
    assert (found.method, found.batch_size, found.accumulate, found.max_tokens) == named
    assert found.memory_bytes < share * needs(spec)
    assert words in found.words(spec)


@pytest.mark.parametrize(
    "changes", [{}, {"objective": "kto"}, {"accumulate": 16}, FULL | {"batch_size": 12, "accumulate": 4}]
)
def test_the_words_alone_make_a_run_that_needs_what_they_say(changes):
    """Whatever is named: who types the flags that stand in the sentence, and no others, gets that run."""
    spec, followed = replace(SPEC, **changes), set()
    for share in (0.8, 0.5, 0.3, 0.2, 0.1):
        if (found := oom_advice(spec, SHAPES, int(share * needs(spec)))) is None:
            continue
        flags = dict(re.findall(r"--([a-z-]+) ([a-z0-9]+)", found.words(spec)))
        said = {name.replace("-", "_"): int(value) if value.isdigit() else value for name, value in flags.items()}
        assert needs(replace(spec, **said)) == found.memory_bytes
        followed |= flags.keys()
    assert followed


def test_what_is_named_is_smaller_and_fits_and_nothing_fits_into_nothing():
    for there in (1.5e9, 3e9, 6e9, 12e9, 50e9):
        found = oom_advice(SPEC, SHAPES, int(there))
        assert found is None or found.memory_bytes <= 0.9 * min(there, needs(SPEC))
    assert oom_advice(SPEC, SHAPES, 10_000_000) is None
    assert smallest_bytes(SPEC, SHAPES) > 10_000_000
    few = replace(SPEC, rows=20)
    found = oom_advice(few, SHAPES, needs(few))
    assert found is not None
    assert found.accumulate == 2, "a batch of more rows than there are counts as the rows"
