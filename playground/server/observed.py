"""What is seen from outside: Prometheus' figures of this process, an id for every request, and logs as JSON lines.

No figure and no line holds a name, a prompt, an address or a header: only counts, sizes, seconds and states.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.chat.batching import Written
from playground.server.gate import path_in
from playground.services import Services

prometheus.disable_created_metrics()
FORMAT = prometheus.CONTENT_TYPE_LATEST
_ROUTES = frozenset({"/v1/models", "/v1/chat/completions", "/healthz", "/status", "/metrics"})
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_request: ContextVar[str] = ContextVar("request", default="")
_log = logging.getLogger(__name__)


class Observed(Collector):
    """The figures of one process: counted while it answers, and read from its services when they are asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._registry = mine = prometheus.CollectorRegistry()
        mine.register(self)
        self._replies = prometheus.Counter(
            "playground_replies", "Replies by who gave them and how they ended.", ["where", "finish"], registry=mine
        )
        self._tokens = prometheus.Counter(
            "playground_tokens", "Tokens read and written.", ["where", "kind"], registry=mine
        )
        self._first, self._requests = (
            prometheus.Histogram(f"playground_{name}_seconds", told, labels, registry=mine, buckets=_SECONDS)
            for name, told, labels in (
                ("first_token", "From the start of a batch to a reply's first token.", ["where"]),
                ("request", "HTTP requests by route and status.", ["route", "status"]),
            )
        )
        services.batches.observers.append(self._replied)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return prometheus.generate_latest(self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).observe(seconds)

    def _replied(self, written: Sequence[Written]) -> None:
        for one in written:
            where = "here" if one.stamp is None or "endpoint" not in one.stamp else "endpoint"
            finish = "failed" if one.failure is not None else one.state.finish or "cancelled"
            self._replies.labels(where, finish).inc()
            self._tokens.labels(where, "prompt").inc(one.state.prompt_tokens)
            self._tokens.labels(where, "completion").inc(one.state.completion_tokens)
            if one.state.first_token_s is not None:
                self._first.labels(where).observe(one.state.first_token_s)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Of the session manager and of the runs."""
        device = self._services.device.status()
        held: Counter[str] = Counter()
        for part in device["parts"]:
            held[part["kind"]] += part["bytes"]
        memory = {"budget": device["budget_bytes"], "used": device["used_bytes"]}
        waits = max((one["wait_s"] for one in device["queue"]), default=0.0)
        yield _one("base_ready", "1 where questions are answered.", float(device["base"]["phase"] == "ready"))
        yield _by("memory_bytes", "The session manager's memory.", "kind", memory)
        yield _by("held_bytes", "What holds the memory that is used.", "kind", held)
        yield _one("residents", "Models in memory.", len(device["residents"]))
        yield _by("leases", "Uses of the device now.", "lane", Counter(one["lane"] for one in device["leases"]))
        yield _one("queue_length", "Requests that wait for the device.", len(device["queue"]))
        yield _one("queue_wait_seconds", "Longest wait expected in the queue.", waits)
        yield _by("runs", "Training runs by state.", "state", self._services.training.states())


def _one(name: str, told: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"playground_{name}", told, value=value)


def _by(name: str, told: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"playground_{name}", told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class Traced:
    """ASGI middleware: gives each request an id (its own ``X-Request-ID`` where that is plain), sends it back, and logs
    and counts how the request ended."""

    def __init__(self, app: ASGIApp, observed: Observed) -> None:
        self._app, self._observed = app, observed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        number = given if _ID.fullmatch(given) else uuid.uuid4().hex[:16]
        _request.set(number)
        path, started_s, status = path_in(scope), time.monotonic(), 500
        route = path if path in _ROUTES else "/v1/other" if path.startswith("/v1/") else "page"

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            seconds = time.monotonic() - started_s
            self._observed.answered(route, status, seconds)
            figures = {"method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 3)}
            _log.info("%(method)s %(route)s %(status)s in %(seconds)s s", figures)


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, the request's id, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if number := _request.get():
            line["request_id"] = number
        if isinstance(record.args, Mapping):
            line |= record.args
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json() -> None:
    """From now on this package's log goes to stderr as JSON lines, every request with one."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("playground")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
