"""What the errors of several libraries mean, from the real ones where they can be had; and what would have fitted."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from playground.errors import InputError, RunFailedError
from playground.training.failure import (
    DISK,
    MEMORY,
    OTHER,
    estimated,
    explain,
    oom_advice,
    reason_of,
    smallest_bytes,
)
from playground.training.spec import RunSpec

SHAPES = {
    "model.embed_tokens.weight": (49152, 576),
    **{f"model.layers.{n}.mlp.{part}.weight": (1536, 576) for n in range(30) for part in ("gate", "up", "down")},
}


def chained() -> InputError:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise InputError("It could not be put in place.") from error
    except InputError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "full"), DISK),
        (OSError(errno.EFBIG, "too large"), DISK),
        (OSError(errno.ENOENT, "gone"), OTHER),
        (chained(), DISK),
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
def test_reasons(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_the_words_carry_figures(tmp_path: Path) -> None:
    told = explain(OSError(errno.ENOSPC, "full"), None, tmp_path).message
    assert "The disk is full" in told
    assert "B free" in told
    assert explain(ValueError("one\ntwo"), None, tmp_path).message == "Training stopped: ValueError: one"


def test_what_libraries_say_of_a_file_that_may_not_grow_and_of_memory_that_is_not_there(tmp_path: Path) -> None:
    """A limit on the size of files is the same fault to a library as a full disk, and needs no disk of its own."""
    deeds = (
        "torch.save(torch.zeros(9_000_000), PATH)",
        "safetensors.torch.save_file({'a': torch.zeros(9_000_000)}, PATH)",
        "open(PATH, 'wb').write(bytes(30_000_000))",
        "resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, 3 * 10**9)), torch.zeros(10**9)",
    )
    code = "import resource, safetensors.torch, torch\nfrom playground.training.failure import reason_of\n"
    code += f"PATH = {str(tmp_path / 'file')!r}\n"
    for deed in deeds:
        code += f"try:\n    {deed}\nexcept BaseException as error:\n    print(reason_of(error))\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert done.stdout.split() == [DISK, DISK, DISK, MEMORY], done.stderr


@pytest.fixture
def spec(plain_spec: RunSpec) -> RunSpec:
    sizes = {"batch_size": 64, "max_tokens": 1024, "rows": 500, "tokens_p95": 800, "answer_max": 400}
    return replace(plain_spec, steps=10, rank=8, **sizes)  # type: ignore[arg-type]


def needs(spec: RunSpec) -> int:
    return estimated(spec, SHAPES, spec.method, spec.batch_size, spec.max_tokens)


def test_first_fewer_rows_a_step_then_a_shorter_limit_then_another_method(spec: RunSpec) -> None:
    fewer = oom_advice(spec, SHAPES, needs(spec) // 3)
    assert fewer is not None
    assert (fewer.method, fewer.batch_size, fewer.max_tokens) == ("lora", 16, 1024)
    assert fewer.memory_bytes < needs(spec) // 3
    assert "a batch of 16 rows (--batch-size 16)" in fewer.words(spec)
    one = replace(spec, batch_size=1)
    shorter = oom_advice(one, SHAPES, int(needs(one) * 0.9))
    assert shorter is not None
    assert (shorter.batch_size, shorter.max_tokens) == (1, 400)
    assert "a limit of 400 tokens (--max-tokens 400)" in shorter.words(one)
    whole = replace(spec, method="full", rank=0, batch_size=1, tokens_p95=64, answer_max=32, max_tokens=64)
    other = oom_advice(whole, SHAPES, int(estimated(whole, SHAPES, "full", 1, 16) * 0.95))
    assert other is not None
    assert other.method == "lora"
    assert "LoRA (--method lora)" in other.words(whole)


def test_what_is_named_is_smaller_and_fits_and_nothing_fits_into_nothing(spec: RunSpec) -> None:
    for there in (1.5e9, 3e9, 6e9, 12e9, 50e9):
        found = oom_advice(spec, SHAPES, int(there))
        assert found is None or found.memory_bytes <= 0.9 * min(there, needs(spec))
    assert oom_advice(spec, SHAPES, 10_000_000) is None
    assert smallest_bytes(spec, SHAPES) > 10_000_000
    few = replace(spec, rows=20)
    found = oom_advice(few, SHAPES, needs(few))
    assert found is not None
    assert found.batch_size == 10, "a batch of more rows than there are counts as the rows"
