"""``python -m playground.library.exporting JOB``: merge an adapter into its base, or write it as GGUF, in a process of its own.

JOB is a JSON file: adapter, base, work (folders), format (merged or gguf), target. Each line of stdout is one JSON object: {phase, share}, at
the end {done} with the path, or {error}. In its own process because a second computing thread would slow all replies down.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from playground.errors import PlaygroundError
from playground.library.archive import pack
from playground.library.card import read_card
from playground.library.gguf_file import check_gguf, write_gguf
from playground.library.merging import merge

FORMATS = ("peft", "merged", "gguf")
Tell = Callable[[str, float], None]


def run(adapter: Path, base: Path, work: Path, format: str, target: Path, tell: Tell) -> Path:
    """Write ``target``: a folder, a zip of one where it ends in .zip, or a GGUF file. work: an empty folder on the same disk.

    Raises InputError, and whatever a full disk or too little memory raises; ``target`` then does not exist.
    """
    card = read_card(adapter)
    merged = work / "merged"
    tell("Merging the adapter into the base", 0.0)
    merge(card, base, merged)
    if format == "gguf":
        tell("Writing the GGUF file", 0.5)
        file = work / "model.gguf"
        write_gguf(merged, file, card.name)
        tell("Checking the GGUF file: the same tokens, the same logits", 0.6)
        check_gguf(merged, file)
        shutil.move(file, target)
    elif target.suffix == ".zip":
        tell("Packing", 0.7)
        pack(merged, target)
    else:
        shutil.move(merged, target)
    return target


def main() -> int:
    def say(**values: object) -> None:
        print(json.dumps(values), flush=True)

    job = json.loads(Path(sys.argv[1]).read_text())
    folders = {name: Path(job[name]) for name in ("adapter", "base", "work", "target")}
    try:
        done = run(format=job["format"], tell=lambda phase, share: say(phase=phase, share=share), **folders)
    except PlaygroundError as error:
        say(error=str(error))
        return 1
    except MemoryError:
        say(error="There is not enough memory to merge this base. Free some (Device panel), or merge on a larger machine.")
        return 1
    except OSError as error:
        say(error=f"The model could not be written: {error.strerror or error}. Free some disk and try again.")
        return 1
    say(done=str(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
