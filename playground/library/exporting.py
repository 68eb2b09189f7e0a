"""Adapters as weights: merged into their base, written as GGUF, several LoRAs blended into one; and what another
program needs to serve one as it answers here: Ollama, llama.cpp, vLLM, or any server that takes a PEFT folder. What
such a target cannot lay over the base is merged into it, or refused.

``python -m playground.library.exporting JOB`` merges or converts in a process of its own, so slows no reply. JOB is a
JSON file: adapter, base, work (folders), format (merged, gguf, or one of ``TARGETS``), target; stdout has one JSON
object a line: {phase, share}, at the end {done} with the path, or {error}."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.example import Message
from playground.data.render import end_tokens, render_prompt
from playground.errors import InputError, PlaygroundError
from playground.library.adapters import AdapterCard, read_card
from playground.library.archive import pack
from playground.library.card import CARD, CONFIG, OFF, PRIVATE, RECORD, SCHEMA, WEIGHTS, read_run, tidied, united
from playground.library.files import is_plain_file, write_json
from playground.library.gguf_file import F16, Q4_K_M, Q8_0, check_gguf, quantise, write_adapter, write_gguf
from playground.methods import all_methods
from playground.methods.method import BEGIN

FORMATS = ("peft", "merged", "gguf")
Tell = Callable[[str, float], None]


def refuse_unmergeable(card: AdapterCard) -> None:
    """Raise InputError for an adapter that is no change of weights."""
    if card.kind != "full" and card.method not in _mergeable():
        said = f"{card.name} ({card.method}) adds something to the base that no weight can hold,"
        instead = f"Export it as a PEFT folder; {', '.join(_mergeable())} and full fine-tunes can be merged."
        raise InputError(f"{said} so it cannot be merged. {instead}")


def _mergeable() -> list[str]:
    """Methods whose adapters change weights."""
    return [name for name, method in all_methods().items() if method.mergeable]


def merge(card: AdapterCard, base: Path, target: Path) -> None:
    """Write the merged model, its tokenizer, card and record into ``target`` (new; its parents are not made), in the
    base's own precision; a full fine-tune is copied. Raises InputError, OSError."""
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
    target.mkdir()  # save_pretrained would make its parents too
    merged.save_pretrained(target)
    for pattern in ("*token*", "chat_template*", "vocab*", "merges*", "special*"):
        for file in base.glob(pattern):
            shutil.copyfile(file, target / file.name)
    record = read_run(card.path) | {"kind": "full", "merged_from": card.sha256}
    (target / RECORD).write_text(json.dumps(record, indent=1))
    if (card.path / CARD).is_file():
        text = (card.path / CARD).read_text(encoding="utf-8")
        text = text.replace("library_name: peft", "library_name: transformers")
        (target / CARD).write_text(text, encoding="utf-8")


def run(adapter: Path, base: Path, work: Path, format: str, target: Path, tell: Tell) -> Path:
    """Write ``target``: a folder, a zip of one where it ends in .zip, or a GGUF file. work: an empty folder on the same
    disk. Raises InputError, and what a full disk or too little memory raises; ``target`` then does not exist."""
    card, merged = read_card(adapter), work / "merged"
    if format in TARGETS:
        return hand_over(card, base, work, format, target, tell)
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
    except (PlaygroundError, MemoryError, OSError) as error:
        words = str(error)
        if isinstance(error, MemoryError):
            words = "There is not enough memory to merge this base."
            words += " Free some (Device panel), or merge on a larger machine."
        elif isinstance(error, OSError):
            words = f"The model could not be written: {error.strerror or error}. Free some disk and try again."
        say(error=words)
        return 1
    say(done=str(done))
    return 0


HOW = {"linear": "cat", "ties": "ties", "dare": "dare_linear"}
"""Our names -> PEFT's, for adapters of one rank; others are brought to one by a singular value decomposition. linear:
the weighted sum of the changes, exact, its rank the sum of theirs. ties: signs that disagree are settled (Yadav et
al. 2023, arXiv:2306.01708). dare: part of each change is dropped at random, the rest scaled up (Yu et al. 2023,
arXiv:2311.03099)."""
DENSITY = 0.5  # the share of each change that ties and dare keep
MOST, WIDEST, _SEED = 6, 256, 7


def blend(
    cards: Sequence[AdapterCard], weights: Sequence[float], how: str, base: Path, target: Path, name: str, owner: str
) -> None:
    """Write one LoRA that does some of what each does as a PEFT folder into ``target`` (empty), by PEFT's weighted
    combination. Of the base only the shapes are needed. Raises InputError."""
    _refuse(cards, weights, how)
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    models: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = models.from_config(config)
    model = model.to_empty(device="cpu")  # room that nobody writes to: PEFT puts adapters where the base is
    ranks = {card.rank for card in cards}
    kind = HOW[how] if how == "linear" or len(ranks) == 1 else f"{HOW[how]}_svd"
    options = {} if how == "linear" else {"density": DENSITY}
    names = [f"one{place}" for place in range(len(cards))]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(_SEED)  # dare draws
        laid = PeftModel.from_pretrained(model, cards[0].path, adapter_name=names[0], torch_device="cpu")
        for card, label in zip(cards[1:], names[1:], strict=True):
            laid.load_adapter(card.path, adapter_name=label, torch_device="cpu")
        laid.add_weighted_adapter(names, list(map(float, weights)), "blend", combination_type=kind, **options)
        laid.save_pretrained(str(target), selected_adapters=["blend"])
    for file in (target / "blend").iterdir():
        file.rename(target / file.name)
    (target / "blend").rmdir()
    # PEFT gives the sum a scale of alpha / rank = 1, whatever the first part's scale was made of
    kept = tidied(target, base_model_name_or_path=cards[0].base, inference_mode=True, use_rslora=False)
    parts = list(zip(cards, weights, strict=True))
    record = {"schema": SCHEMA, "name": name, "method": "lora", "kind": "peft", "objective": "sft", "how": how}
    record |= {"base": cards[0].base, "base_fingerprint": cards[0].base_fingerprint, "rank": int(kept["r"])}
    record |= {"owner": owner, "created_s": time.time()}
    record["blended_from"] = [{"id": card.id, "sha256": card.sha256, "weight": weight} for card, weight in parts]
    record |= {"think": OFF} if all(card.think is False for card in cards) else {}
    record["data"] = " + ".join(f"{weight:g} x {card.name}" for card, weight in parts)
    record |= united([read_run(card.path) for card in cards])  # so that a verdict knows their rows again
    (target / RECORD).write_text(json.dumps(record, indent=1))


def _refuse(cards: Sequence[AdapterCard], weights: Sequence[float], how: str) -> None:
    if how not in HOW:
        raise InputError(f"There is no way to blend called {how!r}. There are: {', '.join(HOW)}.")
    if not 2 <= len(cards) <= MOST:
        raise InputError(f"A blend takes 2 to {MOST} adapters; {len(cards)} were named.")
    blendable = {name for name, method in all_methods().items() if method.blendable}
    if other := next((card for card in cards if card.method not in blendable), None):
        raise InputError(f"{other.name} is {other.method}; only LoRA and QLoRA adapters can be blended.")
    if len({card.base_fingerprint for card in cards if card.base_fingerprint}) > 1:
        raise InputError("The adapters were made for different bases. Blend those of one.")
    if not all(-10 <= weight <= 10 for weight in weights):
        raise InputError("A weight is a number from -10 to 10, usually from 0 to 1.")
    wide = sum(card.rank or 0 for card in cards)
    if how == "linear" and wide > WIDEST:
        said = f"A linear blend of these has rank {wide}; at most {WIDEST} are taken."
        raise InputError(f"{said} Blend fewer, or use ties.")


OLLAMA, LLAMA_CPP, VLLM, ENDPOINT = "ollama", "llama.cpp", "vllm", "endpoint"
TARGETS = (OLLAMA, LLAMA_CPP, VLLM, ENDPOINT)
LABELS = {OLLAMA: "Ollama", LLAMA_CPP: "llama.cpp", VLLM: "vLLM", ENDPOINT: "Another server that takes PEFT folders"}
CONTEXT_MOST = 8192
"""Tokens of context that a server is told to keep, at most: its memory is taken at once."""
_ENDS = tuple(f"self_attn.{one}_proj" for one in "qkvo") + tuple(f"mlp.{one}_proj" for one in ("gate", "up", "down"))


def laid_over(card: AdapterCard) -> str:
    """Why llama.cpp, Ollama and vLLM cannot lay this adapter over its base, so that it is merged; "" where they can.

    vLLM refuses DoRA (``PEFTHelper``), llama.cpp's adapter file has no place for its sizes; both know LoRA alone, on
    the linear layers of each block."""
    if card.kind == "full":
        return "it is a whole model"
    if card.method not in ("lora", "qlora"):
        return f"it is {card.method}, and they lay LoRA alone over a base"
    from safetensors import safe_open

    with safe_open(card.path / WEIGHTS, framework="np") as weights:
        layers = {name.removeprefix(BEGIN).partition(".lora_")[0] for name in weights.keys()}  # noqa: SIM118
    other = sorted(layer for layer in layers if not layer.endswith(_ENDS))
    return f"it changes {other[0]}, which is no linear layer of a block" if other else ""


def refuse_unservable(card: AdapterCard, to: str) -> None:
    """Raise InputError for a target that cannot serve this adapter at all."""
    if to not in TARGETS:
        raise InputError(f"There is no target {to[:40]!r} to hand over to. There are: {', '.join(TARGETS)}.")
    if to != ENDPOINT and card.kind != "full" and card.method not in _mergeable():
        said = f"{LABELS[to]} cannot serve {card.name} ({card.method}): it adds something to the base that no weight"
        instead = f"Serve it from here (/v1), or train one of {', '.join(_mergeable())}, full"
        raise InputError(
            f"{said} can hold, and {LABELS[to]} has no place for it. {instead}; --to {ENDPOINT} writes it."
        )


@dataclass(frozen=True)
class GoTemplate:
    """A chat template as Ollama writes it. system: the base's own default, "" = none. strips: the base's template cuts
    the white space around a message, which this one does not."""

    text: str
    system: str = ""
    strips: bool = False


def go_template(tokenizer: Any) -> GoTemplate | None:
    """The base's chat template in Go's syntax, None where it cannot be told surely: what stands before and after each
    role's text is found by rendering, put together, and compared with the template's own renderings of chats of every
    shape. Tools and thoughts are not in it."""
    try:
        return _go_template(lambda *turns: render_prompt(tokenizer, [Message(*turn) for turn in turns]))
    except (InputError, ValueError):  # a template that refuses a system turn; a text that is not found again
        return None


def _go_template(render: Callable[..., str]) -> GoTemplate | None:
    system, user, answer, again = (("system", "Zs"), ("user", "Zu"), ("assistant", "Za"), ("user", "Zv"))
    before, after_system, _ = _cut(render(system, user), "Zs", "Zu")
    _, _, closed, opened, end = _cut(render(system, user, answer, again), "Zs", "Zu", "Za", "Zv")
    alone, _ = _cut(render(user), "Zu")
    default = ""
    if alone != before and alone.startswith(before) and alone.endswith(after_system):
        default = alone[len(before) : len(alone) - len(after_system)]
    user_begins = _end_of(before.replace("system", "user"), after_system, opened)
    answer_begins = _end_of(before.replace("system", "assistant"), closed, end)
    user_ends = end.removesuffix(answer_begins)
    head = "" if default else alone.removesuffix(user_begins)
    if not before.startswith(head):
        return None
    parts = {
        "system": (before[len(head) :], after_system.removesuffix(user_begins)),
        "user": (user_begins, user_ends),
        "assistant": (closed[len(user_ends) :], opened.removesuffix(user_begins)),
    }
    last = end[len(user_ends) :]

    def as_go(*turns: tuple[str, str]) -> str:
        turns = turns if turns[0][0] == "system" or not default else (("system", default), *turns)
        return head + "".join(parts[role][0] + text + parts[role][1] for role, text in turns) + last

    chats = [(user,), (system, user), (user, answer, again), (system, user, answer, again, answer, user)]
    if any(as_go(*chat) != render(*chat) for chat in chats):
        return None
    spaced = ((("user", " Zu \n"),), (("system", "\nZs "), user), (user, ("assistant", " Za\n"), again))
    strips = any(as_go(*chat) != render(*chat) for chat in spaced)
    words = {role: tuple(map(_literal, both)) for role, both in parts.items()}
    made = _literal(head) + "{{ range .Messages }}"
    for begin, role in (("if", "system"), ("else if", "user"), ("else if", "assistant")):
        made += f'{{{{ {begin} eq .Role "{role}" }}}}{words[role][0]}{{{{ .Content }}}}{words[role][1]}'
    made += "{{ end }}{{ end }}" + _literal(last)
    return None if '"""' in made + default else GoTemplate(made, default, strips)


def _cut(text: str, *marks: str) -> list[str]:
    """What stands around the marks, each of which is there once, in this order. Raises ValueError."""
    found = []
    for mark in marks:
        if text.count(mark) != 1:
            raise ValueError(mark)
        before, _, text = text.partition(mark)
        found.append(before)
    return [*found, text]


def _end_of(like: str, *texts: str) -> str:
    """What these texts end in alike: what ``like`` does too, where they share that. No mark is cut in two."""
    shared = os.path.commonprefix([text[::-1] for text in texts])[::-1]  # noqa: RUF071 (text)
    found = os.path.commonprefix([shared[::-1], like[::-1]])[::-1] or shared  # noqa: RUF071 (text)
    return found[max(found.find("<"), 0) :]


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def modelfile(source: Sequence[str], template: GoTemplate | None, ends: Sequence[str], context: int) -> str:
    """An Ollama Modelfile that answers greedily, as the hand-over asks. source: its FROM and ADAPTER lines. Without a
    template the one inside the GGUF file stands, as far as Ollama knows it."""
    lines = [*source]
    if template is not None:
        lines += [f'TEMPLATE """{template.text}"""']
        lines += [f'SYSTEM """{template.system}"""'] if template.system else []
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context}"]
    return "\n".join([*lines, ""])


def hand_over(card: AdapterCard, base: Path, work: Path, to: str, target: Path, tell: Tell) -> Path:
    """Write what ``to`` needs into ``target``, a new folder, or a zip of one where it ends in .zip. work: an empty
    folder on the same disk. Raises InputError, OSError; ``target`` then does not exist."""
    from transformers import AutoConfig, AutoTokenizer

    refuse_unservable(card, to)
    folder = work / (target.stem if target.suffix == ".zip" else target.name)
    folder.mkdir()
    merged_since = "" if to == ENDPOINT else laid_over(card)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    about: dict[str, Any] = {"card": card, "to": to, "base": base, "merged_since": merged_since}
    about |= {"context": min(CONTEXT_MOST, int(getattr(config, "max_position_embeddings", 0) or CONTEXT_MOST))}
    about |= {"ends": end_tokens(tokenizer), "template": go_template(tokenizer) if to == OLLAMA else None}
    merged = work / "merged"
    if to in (OLLAMA, LLAMA_CPP) or merged_since:
        tell("Merging the adapter into the base", 0.0)
        merge(card, base, merged)
    if to in (OLLAMA, LLAMA_CPP):
        about["four_bits"] = _write_ggufs(card, base, merged, folder, tell, over=not merged_since)
        about["files"] = sorted(file.name for file in folder.glob("*.gguf"))
    elif merged_since:
        merged.rename(folder / card.id)
    else:
        _write_peft(card, base, folder / "adapters" / card.id, for_vllm=to == VLLM)
    if to == OLLAMA:
        _write_modelfiles(card, folder, about)
    (folder / CARD).write_text(_readme(about), encoding="utf-8")
    if target.suffix == ".zip":
        tell("Packing", 0.95)
        return pack(folder, target)
    shutil.move(folder, target)
    return target


def _write_ggufs(card: AdapterCard, base: Path, merged: Path, folder: Path, tell: Tell, *, over: bool) -> bool:
    """The merged model in f16, in 8 bits, and in 4 where llama.cpp's quantiser is at hand (whether it is); and, where
    it can be laid over its base, the adapter by itself, with its base."""
    tell("Writing the GGUF file", 0.25)
    whole = folder / f"{card.id}-{F16}.gguf"
    write_gguf(merged, whole, card.name)
    tell("Checking the GGUF file: the same tokens, the same logits", 0.35)
    check_gguf(merged, whole)
    tell("Writing it in 8 bits", 0.55)
    write_gguf(merged, folder / f"{card.id}-{Q8_0}.gguf", card.name, Q8_0)
    tell("Writing it in 4 bits, where llama.cpp's quantiser is here", 0.65)
    small = folder / f"{card.id}-{Q4_K_M}.gguf"
    if not (four_bits := quantise(whole, small)):
        small.unlink(missing_ok=True)
    if over:
        tell("Writing the adapter by itself, and its base", 0.8)
        from safetensors.torch import load_file

        from playground.methods import get_method

        settings = json.loads((card.path / CONFIG).read_text())
        read = get_method(card.method).read(card.name, settings, load_file(card.path / WEIGHTS))
        pairs = {name: (one.a, one.b) for name, one in read.modules.items() if one.a is not None and one.b is not None}
        modules = {name: (a.float().numpy(), b.float().numpy()) for name, (a, b) in pairs.items()}
        write_adapter(base, modules, folder / f"{card.id}-adapter.gguf", card.name)
        write_gguf(base, folder / f"base-{F16}.gguf", f"the base of {card.name}")
    return four_bits


def _write_peft(card: AdapterCard, base: Path, folder: Path, *, for_vllm: bool) -> None:
    """The adapter as a PEFT folder. for_vllm: its config names the base as it is served, which the resolver asks for,
    and says nothing of how training began, which vLLM refuses."""
    folder.mkdir(parents=True)
    for file in card.path.iterdir():
        if is_plain_file(file) and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    if (folder / RECORD).is_file():
        write_json(folder / RECORD, {name: said for name, said in read_run(folder).items() if name not in PRIVATE})
    if for_vllm:
        kept = (folder / CARD).read_bytes() if (folder / CARD).is_file() else b""
        tidied(folder, base_model_name_or_path=str(base), init_lora_weights=True)
        (folder / CARD).write_bytes(kept)


def _write_modelfiles(card: AdapterCard, folder: Path, about: dict[str, Any]) -> None:
    asked = about["template"], about["ends"], about["context"]
    sources = {"Modelfile": [f"FROM ./{card.id}-{F16}.gguf"], f"Modelfile.{Q8_0}": [f"FROM ./{card.id}-{Q8_0}.gguf"]}
    if not about["merged_since"]:
        sources["Modelfile.adapter"] = [f"FROM ./base-{F16}.gguf", f"ADAPTER ./{card.id}-adapter.gguf"]
    if about["four_bits"]:
        sources[f"Modelfile.{Q4_K_M}"] = [f"FROM ./{card.id}-{Q4_K_M}.gguf"]
    for name, source in sources.items():
        (folder / name).write_text(modelfile(source, *asked), encoding="utf-8")


def _readme(about: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    page = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    text = Path(__file__).with_name("serving.txt").read_text(encoding="utf-8")
    return page.from_string(text).render({"four_bits": False, "files": [], **about})


if __name__ == "__main__":
    sys.exit(main())
