"""``bench``: versions of a prompt on the validation part. ``search``: the best one there, within a budget."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from playground.chat.compare import Side
from playground.cli.arguments import mapping_of
from playground.cli.common import Outcome, services_for
from playground.cli.verdict import existing, measured
from playground.errors import InputError
from playground.settings import Settings
from playground.verdict.bench import best_of, figure
from playground.verdict.files import DONE


def bench(settings: Settings, options: Namespace) -> Outcome:
    """Keep the versions, measure them on the validation part alone, and say which is best."""
    file = existing(options.file, "bench takes a file of examples.")
    texts, shots = [(name, _text(name)) for name in options.prompt], _shots(options.shots)
    services = services_for(settings, options.base, [Side(options.model)])
    mapping = mapping_of(options) or None
    services.bench.rows(file, mapping=mapping, seed=options.seed)  # a wrong file is refused before anything is kept
    kept = {services.bench.keep(text, file).id: name for name, text in texts}
    shipped = services.data.shipped_with(file)
    checks = options.check or ([shipped.check] if shipped is not None else [])
    asked = {name: getattr(options, name) for name in ("limit", "max_tokens", "seed")}
    request = services.bench.request(file, tuple(kept), shots, checks, options.model, mapping=mapping, **asked)
    view, record = measured(settings, services, request, options)
    services.bench.versions()  # the scores go to the versions
    best, metric = best_of(record), record["main_metric"]
    sides = [
        {
            "side": side["side"],
            "version": (version := side["side"].partition(" ")[0]),
            "file": kept.get(version, ""),
            "shots": side["shots"],
            **{name: side["metrics"][metric][name] for name in ("value", "low", "high", "n")},
            "prompt_tokens_mean": side["prompt_tokens_mean"],
        }
        for side in record["sides"]
    ]
    found = {"bench": view.id, "state": view.state, "metric": metric, "sides": sides}
    found |= {name: record[name] for name in ("examples", "seconds")}
    found["best"] = {"side": best.side, "prompt": best.text, "shots": best.shots, "sentence": best.sentence}
    width = max(len(side["side"]) for side in sides)
    lines = [
        f"{line['side']:<{width}}  {figure(record, side)}  {side['prompt_tokens_mean']:.0f} tokens in  {line['file']}"
        for line, side in zip(sides, record["sides"], strict=True)
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


def search(settings: Settings, options: Namespace) -> Outcome:
    """Let prompts with and without shots compete on the validation part until the budget is over; exit 1 where it was
    stopped before that."""
    file = existing(options.file, "search takes a file of examples.")
    texts = {f"p{at} ({Path(name).stem})": _text(name) for at, name in enumerate(options.prompt, 1)}
    shots = _shots(options.shots)
    services = services_for(settings, options.base, [Side(options.model)])
    budget_s = None if options.budget is None else 60 * options.budget
    asked = {name: getattr(options, name) for name in ("max_tokens", "seed", "form_only")}
    asked |= {"mapping": mapping_of(options) or None, "right": tuple(options.right)}
    asked |= {"proposer": services.endpoints.get(options.endpoint).name} if options.endpoint else {}
    if options.resume:
        id, before = services.search.newest(file)
        request = services.search.resume(id, budget_s or before.budget_s or 0.0)
    else:
        request = services.search.request(file, texts, shots, options.check, budget_s, options.model, **asked)
    view, record = measured(settings, services, request, options)
    best, about = best_of(record), record["search"]
    written = services.search.prompt_file(view.id)
    public = ("side", "prompt", "shots", "nearest", "picked", "score")
    found = {
        "search": view.id,
        "state": view.state,
        "candidates": [{name: one[name] for name in public} for one in about["candidates"] if one["score"]],
        "left_out": [{"side": one["side"], "why": one["left_out"]} for one in about["candidates"] if one["left_out"]],
        "best": {"side": best.side, "prompt": best.text, "shots": best.shots, "sentence": best.sentence}
        | {"nearest": best.nearest, "picked": list(best.picked)},
        "prompt_file": str(written),
        "spent": {"seconds": about["seconds"], "tokens": about["tokens"]},
        "rows": record["examples"],
        "right": record["right"],
    }
    width = max(len(one["side"]) for one in about["candidates"])
    lines = [f"{one['side']:<{width}}  {_score(one)}" for one in about["candidates"]]
    lines += ["", f"{best.side}. {best.sentence}", f"Its prompt: {written}"]
    lines += ["A verdict takes it by --side model=base,prompt=best,shots=best."]
    code = 0 if view.state == DONE else 1
    return found | ({"error": view.error} if code else {}), "\n".join(lines), code


def _score(one: dict[str, Any]) -> str:
    if (score := one["score"]) is None:
        return str(one["left_out"])
    interval = f"{100 * score['low']:.0f} to {100 * score['high']:.0f} %"
    return f"{one['passed']:>3} of {one['n']:>2}  ({interval})  {one['tokens']:.0f} tokens in"
