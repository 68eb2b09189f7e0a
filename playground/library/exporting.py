"""``python -m playground.library.exporting JOB``: merge an adapter into its base, or write it as GGUF, in a process of
its own.

JOB is a JSON file: adapter, base, work (folders), format (merged or gguf), target. Each line of stdout is one JSON
object: {phase, share}, at
the end {done} with the path, or {error}. In its own process because a second computing thread would slow all replies
down.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from playground.errors import InputError, PlaygroundError
from playground.library.archive import pack
from playground.library.card import AdapterCard, read_card, read_run
from playground.library.gguf_file import check_gguf, write_gguf
from playground.methods import all_methods

FORMATS = ("peft", "merged", "gguf")
Tell = Callable[[str, float], None]


def refuse_unmergeable(card: AdapterCard) -> None:
    """Raise InputError for an adapter that is no change of weights."""
    mergeable = [name for name, method in all_methods().items() if method.mergeable]
    if card.kind != "full" and card.method not in mergeable:
        raise InputError(
            f"{card.name} ({card.method}) adds something to the base that no weight can hold, so it cannot be merged. "
            f"Export it as a PEFT folder; {', '.join(mergeable)} and full fine-tunes can be merged."
        )


def merge(card: AdapterCard, base: Path, target: Path) -> None:
    """Write the merged model, its tokenizer, model card and record into ``target`` (new). A full fine-tune is copied.
    The folder that
    ``target`` is to lie in is not made: where it is gone, its owner has removed it.

    Weights are merged in the base's own precision on disk; PEFT checks them for values that are no numbers. Raises
    InputError, OSError.
    """
    refuse_unmergeable(card)
    if card.kind == "full":
        target.mkdir()
        for file in card.path.iterdir():
            shutil.copyfile(file, target / file.name)
        return
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(model, card.path).merge_and_unload(safe_merge=True)
    target.mkdir()  # it would be made with its parents
    merged.save_pretrained(target)
    for pattern in ("*token*", "chat_template*", "vocab*", "merges*", "special*"):
        for file in base.glob(pattern):
            shutil.copyfile(file, target / file.name)
    record = read_run(card.path) | {"kind": "full", "merged_from": card.sha256}
    (target / "run.json").write_text(json.dumps(record, indent=1))
    if (card.path / "README.md").is_file():
        text = (
            (card.path / "README.md")
            .read_text(encoding="utf-8")
            .replace("library_name: peft", "library_name: transformers")
        )
        (target / "README.md").write_text(text, encoding="utf-8")


def run(adapter: Path, base: Path, work: Path, format: str, target: Path, tell: Tell) -> Path:
    """Write ``target``: a folder, a zip of one where it ends in .zip, or a GGUF file. work: an empty folder on the same
    disk.

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
        say(
            error=(
                "There is not enough memory to merge this base. Free some (Device panel), or merge on a larger machine."
            )
        )
        return 1
    except OSError as error:
        say(error=f"The model could not be written: {error.strerror or error}. Free some disk and try again.")
        return 1
    say(done=str(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
