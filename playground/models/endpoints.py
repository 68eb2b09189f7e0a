"""OpenAI-compatible servers that may answer in a side's place, and the file that names them.

The file is TOML, a table a server: ``[NAME]``, then ``url`` (the address before /chat/completions), ``model``,
``key_env``, prices and limits, as in ``Endpoint``. It never holds a key: that is read from the variable it names, at
the moment of a request, and goes to that server alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playground.data.example import Message
from playground.errors import InputError, NotFoundError
from playground.evaluation.cost import TokenPrices
from playground.library.files import write_text

PREFIX = "endpoint:"
"""Begins the name of a side's model that is an endpoint."""
FILE = "endpoints.toml"
MESSAGE_TOKENS = 16
"""Of the template around a message, at most."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Endpoint:
    """url: the base address, as https://api.example.com/v1. key_env: the variable that holds its key, "" = none.
    *_per_million: tokens read, written, and read from its cache (None = as others), in the verdict's currency; None =
    not known, 0 = nothing is paid. concurrency: requests at once. requests_per_minute: None = no limit. source: what a
    person changes where the address is wrong."""

    name: str
    url: str
    model: str
    key_env: str = ""
    prompt_per_million: float | None = None
    completion_per_million: float | None = None
    cached_per_million: float | None = None
    concurrency: int = 4
    requests_per_minute: float | None = None
    source: str = field(default=f"its url and model in {FILE}", compare=False)

    def __post_init__(self) -> None:
        faults, parts = [], urlsplit(self.url) if isinstance(self.url, str) else urlsplit("")
        if not _NAME.fullmatch(self.name):
            faults.append("its name takes letters, digits, dots and dashes, 40 at most")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            faults.append("url takes an address such as https://api.example.com/v1, without a key in it")
        if not isinstance(self.model, str) or not self.model.strip():
            faults.append("model is missing; it takes the name that the server gives it")
        if not isinstance(self.key_env, str) or (self.key_env and not _VARIABLE.fullmatch(self.key_env)):
            faults.append("key_env takes the name of an environment variable, never a key")
        for name in ("prompt_per_million", "completion_per_million", "cached_per_million", "requests_per_minute"):
            value = getattr(self, name)
            least = "above 0" if name == "requests_per_minute" else "from 0"
            if value is not None and not (_is_number(value) and (value > 0 or (value == 0 and least == "from 0"))):
                faults.append(f"{name} takes a number {least}")
        if isinstance(self.concurrency, bool) or not isinstance(self.concurrency, int) or self.concurrency < 1:
            faults.append("concurrency takes a whole number from 1")
        if faults:
            raise InputError(f"The endpoint {self.name[:40]!r} cannot be used: {'; '.join(faults)}.")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def label(self) -> str:
        """For a person: the model and where it is."""
        return f"{self.model} at {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, so that nothing that it is sent leaves it."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def prices(self) -> TokenPrices | None:
        """None where they are not known."""
        read, written = self.prompt_per_million, self.completion_per_million
        return None if read is None or written is None else TokenPrices(read, written, self.cached_per_million)

    @property
    def price_words(self) -> str:
        """``2.5 and 10 a million tokens in and out``."""
        if (prices := self.prices) is None:
            return "prices not known"
        return f"{prices.prompt_per_million:g} and {prices.completion_per_million:g} a million tokens in and out"

    @property
    def about(self) -> dict[str, Any]:
        """What a stamp and a record say of it."""
        prices = asdict(self.prices) if self.prices is not None else None
        return {"name": self.name, "model": self.model, "host": self.host, "prices": prices}

    def most(self, messages: Sequence[Message], max_tokens: int) -> float:
        """The most that a request can cost, 0 where prices are not known: a token is a byte or more."""
        read = sum(len(one.content.encode()) + MESSAGE_TOKENS for one in messages)
        return self.prices.of(read, max_tokens) if self.prices is not None else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Endpoints:
    """Those that the owner of the app has set up. file: None = none may be. named: by the environment, which then alone
    may change it."""

    def __init__(self, file: Path | None = None, *, named: bool = False) -> None:
        self.file, self._named = file, named

    def all(self) -> list[Endpoint]:
        """In the order of the file. Raises InputError for a file that cannot be used."""
        if self.file is None or not (self._named or self.file.exists()):
            return []
        try:
            said = tomllib.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            takes = "PLAYGROUND_ENDPOINTS takes a TOML file with a table a server: [NAME], then url and model."
            raise InputError(f"{self.file} cannot be read: {str(error)[:200]}. {takes}") from error
        return [_endpoint(name, about) for name, about in said.items()]

    def usable(self) -> list[Endpoint]:
        """The same for a list to choose from: none where the file cannot be used, which ``get`` tells."""
        with contextlib.suppress(InputError):
            return self.all()
        return []

    def get(self, name: str) -> Endpoint:
        """By its name, with ``endpoint:`` or without. Raises NotFoundError, InputError."""
        name, there = name.removeprefix(PREFIX), {one.name: one for one in self.all()}
        if name not in there:
            known = f"There are: {', '.join(there)}." if there else f"There are none yet. {FILE} names them."
            raise NotFoundError(f"There is no endpoint {name[:40]!r}. {known}")
        return there[name]

    def add(self, endpoint: Endpoint) -> None:
        """Write it to the file, in the place of one of its name. Raises InputError where the environment names it."""
        self._write(self._mine() | {endpoint.name: endpoint})

    def remove(self, name: str) -> Endpoint:
        """Take it out of the file; returns it. Raises NotFoundError, and InputError where the environment names it."""
        there, gone = self._mine(), self.get(name)
        self._write({name: one for name, one in there.items() if name != gone.name})
        return gone

    def _mine(self) -> dict[str, Endpoint]:
        """Those of a file that may be changed here."""
        if self.file is None or self._named:
            raise InputError("Endpoints are set by whoever runs the app, in the file that PLAYGROUND_ENDPOINTS names.")
        return {one.name: one for one in self.all()}

    def _write(self, tables: Mapping[str, Endpoint]) -> None:
        assert self.file is not None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch(0o600)
        write_text(self.file, "\n".join(map(_table, tables.values())))
        self.file.chmod(0o600)


def _endpoint(name: str, about: object) -> Endpoint:
    known = [one.name for one in fields(Endpoint) if one.name not in ("name", "source")]
    if not isinstance(about, dict):
        raise InputError(f"{name[:40]!r} in {FILE} is no table. Write [{name[:40]}], then url and model below it.")
    if unknown := sorted(set(about) - set(known)):
        a_key = " A key stands in an environment variable, which key_env names." * any("key" in one for one in unknown)
        raise InputError(f"[{name}] in {FILE} has {', '.join(unknown)}. There are: {', '.join(known)}.{a_key}")
    return Endpoint(**{"url": "", "model": "", **about, "name": name})


def _table(endpoint: Endpoint) -> str:
    values = {name: value for name, value in asdict(endpoint).items() if name not in ("name", "source")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value not in (None, "")]
    return "\n".join([f"[{json.dumps(endpoint.name)}]", *lines, ""])
