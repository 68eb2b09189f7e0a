"""``bench``: versions of a prompt, with and without answered examples, on the validation part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of
from playground.cli.common import Progress, services_for
from playground.cli.verdict import line, measured
from playground.errors import InputError, RunFailedError
from playground.services.bench_best import best_of, figure
from playground.services.container import Services
from playground.settings import Settings


def bench(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    """Keep the versions, measure them, and say which is best. The rest of the file is not asked: a verdict may still judge by it."""
    file = Path(options.file)
    if not file.exists():
        raise InputError(f"There is no file {file}. bench takes a file of examples.")
    texts, shots = [(name, _text(name)) for name in options.prompt], _shots(options.shots)
    services, progress = services_for(settings, options.base), Progress()
    mapping = mapping_of(options.map) or None
    services.bench.rows(file, mapping=mapping, seed=options.seed)  # a wrong file is told before anything is kept
    kept = {services.bench.keep(text, file).id: name for name, text in texts}
    request = services.bench.request(
        file, tuple(kept), shots, options.check or _checks(services, file), mapping=mapping, limit=options.limit,
        max_tokens=options.max_tokens, seed=options.seed,
    )  # fmt: skip
    view = None
    for view in measured(settings, services, request, progress):
        progress.say(line(view))
    progress.end()
    if view is None or view.record is None:
        raise RunFailedError(view.error if view is not None and view.error else "Nothing was measured. Try again.")
    services.bench.versions()  # the scores go to the versions
    return _outcome(view.record, view.id, view.state, kept)


def _outcome(record: dict[str, Any], id: str, state: str, kept: dict[str, str]) -> tuple[dict[str, Any], str, int]:
    best, metric = best_of(record), record["main_metric"]
    sides = [
        {
            "side": side["side"], "version": side["side"].partition(" ")[0], "file": kept.get(side["side"].partition(" ")[0], ""),
            "shots": side["shots"], "value": side["metrics"][metric]["value"], "low": side["metrics"][metric]["low"],
            "high": side["metrics"][metric]["high"], "n": side["metrics"][metric]["n"], "prompt_tokens_mean": side["prompt_tokens_mean"],
        }
        for side in record["sides"]
    ]  # fmt: skip
    found = {
        "bench": id, "state": state, "metric": metric, "examples": record["examples"], "sides": sides, "seconds": record["seconds"],
        "best": {"side": best.side, "prompt": best.text, "shots": best.shots, "sentence": best.sentence},
    }  # fmt: skip
    width = max(len(side["side"]) for side in sides)
    lines = [
        f"{side['side']:<{width}}  {figure(record, side)}  {side['prompt_tokens_mean']:.0f} tokens in  "
        f"{kept.get(side['side'].partition(' ')[0], '')}"
        for side in record["sides"]
    ]
    return found, "\n".join([*lines, "", f"{best.side}. {best.sentence} Judged by {metric}."]), 0


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompt file {name} cannot be read: {error}.") from error


def _shots(said: str) -> list[int]:
    """``0,4`` -> [0, 4]. Raises InputError."""
    parts = [part.strip() for part in said.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise InputError(f"--shots takes whole numbers with commas, such as 0,4; {said!r} is not that.")
    return [int(part) for part in parts]


def _checks(services: Services, file: Path) -> list[str]:
    """What a shipped set's replies are judged by."""
    return [one.check for one in services.data.sets() if file.resolve() in (one.file.resolve(), one.heldout.resolve())]
