"""A finished run, or a checkpoint that is kept -> an adapter in the library, whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.library.adapters import AdapterLibrary
from playground.methods import get_method
from playground.training.checkpoint import STATE, newest_complete, step_of
from playground.training.events import curve_of
from playground.training.spec import RunSpec

PRIVATE = (
    *("base_path", "file", "adapters_dir", "shipped_dir", "start_path", "docs_path", "reward_files"),
    *("limit_bytes", "limit_memory_bytes", "disk_bytes", "estimated_seconds", "rows", "tokens_p95", "answer_max"),
)
"""What an adapter's run.json does not repeat: paths on this machine, and what only the plan was made from."""


def publish(model: Any, tokenizer: Any, spec: RunSpec, summary: dict[str, Any]) -> str:
    """Save a trained model's adapter (or the whole model) beside the library and move it in. Returns its id."""
    library = AdapterLibrary(Path(spec.adapters_dir), Path(spec.shipped_dir))
    staging = library.staging()
    try:
        model.save_pretrained(staging)
        (staging / STATE).unlink(missing_ok=True)
        if get_method(spec.method).whole:
            tokenizer.save_pretrained(staging)
        return _finish(library, staging, spec, summary)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def find_published(run_dir: Path) -> tuple[str, dict[str, Any]] | None:
    """(id, its record) of the adapter a run made to its end, for a worker that was killed before it could say so."""
    try:
        spec = RunSpec.read(run_dir)
    except InputError:
        return None
    for file in Path(spec.adapters_dir).glob("[!.]*/run.json"):
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("run") == spec.run and "peak_memory_bytes" in record:
            return file.parent.name, record
    return None


def keep_checkpoint(run_dir: Path) -> str | None:
    """Publish a run's newest complete checkpoint; the adapter's id, or None when there is none. Needs no torch."""
    checkpoint = newest_complete(run_dir)
    if checkpoint is None:
        return None
    spec = RunSpec.read(run_dir)
    library = AdapterLibrary(Path(spec.adapters_dir), Path(spec.shipped_dir))
    whole = get_method(spec.method).whole
    staging = library.staging()
    try:
        wanted = [(checkpoint, "adapter_config.json"), (checkpoint, "adapter_model.safetensors")]
        if whole:
            wanted = [(checkpoint, name) for name in ("config.json", "generation_config.json", "model*")]
            wanted += [(Path(spec.base_path), name) for name in ("*token*", "chat_template*")]
        sources = [file for folder, name in wanted for file in folder.glob(name)]
        for file in sources:
            shutil.copyfile(file, staging / file.name)
        return _finish(library, staging, spec, {"steps": step_of(checkpoint), "curve": curve_of(run_dir)})
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _finish(library: AdapterLibrary, staging: Path, spec: RunSpec, summary: dict[str, Any]) -> str:
    config_file = staging / "adapter_config.json"
    if config_file.is_file():
        config = json.loads(config_file.read_text())
        config["base_model_name_or_path"] = spec.base  # PEFT writes the base's folder on this machine there
        if isinstance(config.get("target_modules"), list):
            config["target_modules"].sort()
        config_file.write_text(json.dumps(config, indent=2))
    (staging / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    record = {key: value for key, value in asdict(spec).items() if key not in PRIVATE}
    record |= summary | {"kind": "full" if get_method(spec.method).whole else "peft", "created_s": time.time()}
    (staging / "run.json").write_text(json.dumps(record, indent=1))
    return library.publish(staging, library.reserve_id(spec.name, spec.owner)).id
