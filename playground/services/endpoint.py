"""A judge elsewhere: any server that answers as OpenAI's chat completions do. Its address and key come from the environment alone."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playground.errors import InputError, RunFailedError

TIMEOUT_S = 60.0
ANSWER_TOKENS = 256
"""Room for a judge that thinks aloud before its word."""
ANSWER_BYTES = 1_000_000


@dataclass(frozen=True)
class Endpoint:
    """url: the base address, such as ``https://api.example.com/v1``. key: shown to that server alone; "" = none is needed."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Endpoint | None:
        """``JUDGE_URL``, ``JUDGE_MODEL``, ``JUDGE_KEY``; None where no address is set. Raises InputError."""
        env = os.environ if env is None else env
        url, model = env.get("JUDGE_URL", "").strip(), env.get("JUDGE_MODEL", "").strip()
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise InputError(
                "JUDGE_URL is no address of a server. It takes one such as https://api.example.com/v1, without a key in it."
            )
        if not model:
            raise InputError("JUDGE_URL is set and JUDGE_MODEL is not. Name the model that judges.")
        return cls(url.rstrip("/"), model, env.get("JUDGE_KEY", "").strip())

    @property
    def name(self) -> str:
        """For a person: the model and where it is."""
        return f"{self.model} at {urlsplit(self.url).hostname}"

    def answer(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What it says to these messages, greedy. Raises RunFailedError that never names the key."""
        body = {"model": self.model, "messages": [dict(one) for one in messages], "temperature": 0, "max_tokens": ANSWER_TOKENS}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout_s) as response:
                said: Any = json.loads(response.read(ANSWER_BYTES))
            text = said["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise RunFailedError(f"{self.name} answered {error.code}. {_advice(error.code)}") from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", None) or error
            raise RunFailedError(
                f"{self.name} cannot be reached ({str(reason)[:120]}). Check JUDGE_URL and the network."
            ) from None
        except (ValueError, LookupError, TypeError):
            raise RunFailedError(
                f"{self.name} does not answer as a chat completion. Check that JUDGE_URL ends where /chat/completions begins."
            ) from None
        return text if isinstance(text, str) else ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """The key goes where it was meant to go, and nowhere that this place points to."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


def _advice(status: int) -> str:
    if status in (401, 403):
        return "Check JUDGE_KEY."
    if status == 404:
        return "Check JUDGE_URL and JUDGE_MODEL."
    if status == 429:
        return "It takes no more requests now. Try again later."
    return "Check JUDGE_URL, or point it straight to the server." if 300 <= status < 400 else "Try again."
