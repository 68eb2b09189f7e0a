"""What the errors of several libraries mean, from the real ones where they can be had."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from playground.errors import InputError, RunFailedError
from playground.training.failure import DISK, MEMORY, OTHER, explain, reason_of


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
        (
            RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/3"),
            DISK,
        ),
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


@pytest.mark.parametrize(
    "deed",
    [
        "import torch; torch.save(torch.zeros(9_000_000), PATH)",
        "import torch, safetensors.torch as s; s.save_file({'a': torch.zeros(9_000_000)}, PATH)",
        "open(PATH, 'wb').write(bytes(30_000_000))",
    ],
)
def test_what_libraries_say_of_a_file_that_may_not_grow(deed: str, tmp_path: Path) -> None:
    """A limit on the size of files is the same fault to a library as a full disk, and needs no disk of its own."""
    code = (
        "from playground.training.failure import reason_of\n"
        f"PATH = {str(tmp_path / 'file')!r}\n"
        f"try:\n    {deed}\nexcept BaseException as error:\n    print(reason_of(error))\nelse:\n    print('written')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert done.stdout.strip() == DISK, done.stderr


def test_what_torch_says_of_memory_that_is_not_there() -> None:
    code = (
        "import resource, torch\nfrom playground.training.failure import reason_of\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, 3 * 10**9))\n"
        "try:\n    torch.zeros(10**9)\nexcept BaseException as error:\n    print(reason_of(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == MEMORY, done.stderr
