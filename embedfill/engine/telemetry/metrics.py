"""The engine's numbers for Prometheus: counters that its parts feed, and gauges that are read when somebody asks.

Each engine has a registry of its own. Labels are names of the configuration, or of short lists; never a client's words.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedfill.engine.room import FAILURES
from embedfill.engine.telemetry import logs

_SPACE = "embedfill"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_CHANGES = (1, 2, 5, 10, 20, 50, 100, 200, 500)

Values = Mapping[tuple[str, ...], float]  # by the values of the labels; () where there are none

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all that would be sent, and of use to nobody


class Metrics:
    """A `Meter`, and what is told of HTTP. `watch` adds gauges."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._times("http_request_seconds", "Answers to clients", "method", "route", "status")
        self._sent = self._count("http_response_bytes", "Bytes of the bodies of answers")
        self._forwards = self._times("forward_seconds", "Forward passes of local models", "model")
        self._inputs = self._count("forward_inputs", "Inputs that local models embedded", "model")
        self._commits = self._times("database_commit_seconds", "Transactions of the database")
        self._changes = self._times("database_commit_changes", "Changes of one transaction", buckets=_CHANGES)
        self._lines = self._count("lines", "Lines of batches that have a result", "outcome")
        self._tokens = self._count("line_tokens", "Tokens of these lines", "kind")
        self._upstream = self._times("upstream_seconds", "Requests to other servers", "route", "outcome")
        self._moves = self._count("batch_transitions", "Batches that came to a status", "status")
        self._webhooks = self._count("webhooks", "Tries to tell a webhook", "event", "outcome")

    def watch(self, name: str, text: str, read: Callable[[], Values], *labels: str) -> None:
        """One more gauge; `read` is called whenever the numbers are asked for, in a thread."""
        self.registry.register(_Gauge(f"{_SPACE}_{name}", text, read, labels))

    def request(self, method: str, route: str, status: int, seconds: float, sent: int) -> None:
        """An answer to a client. `route`: its template, with names in place of ids; empty where there is none."""
        known = method if method in _METHODS else _OTHER
        self._requests.labels(known, route or _OTHER, str(status)).observe(seconds)
        self._sent.inc(sent)

    def forward(self, model: str, inputs: int, seconds: float) -> None:
        self._forwards.labels(model).observe(seconds)
        self._inputs.labels(model).inc(inputs)

    def commit(self, changes: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._changes.observe(changes)

    def lines(self, completed: int, failed: int, input_tokens: int, output_tokens: int) -> None:
        self._lines.labels("completed").inc(completed)
        self._lines.labels("failed").inc(failed)
        self._tokens.labels("input").inc(input_tokens)
        self._tokens.labels("output").inc(output_tokens)

    def upstream(self, route: str, outcome: str, seconds: float) -> None:
        self._upstream.labels(route, outcome).observe(seconds)

    def batch(self, batch_id: str, status: str) -> None:
        self._moves.labels(status).inc()
        logs.info("batch", id=batch_id, status=status)

    def webhook(self, event: str, outcome: str) -> None:
        self._webhooks.labels(event, outcome).inc()
        (logs.info if outcome.startswith("2") else logs.warning)("webhook", type=event, outcome=outcome)

    def routes(self) -> list[Route]:
        return [Route("/metrics", self._answer, methods=["GET"])]

    async def _answer(self, _request: Request) -> Response:
        return Response(await run_in_threadpool(generate_latest, self.registry), media_type=CONTENT_TYPE_LATEST)

    def _count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_SPACE, registry=self.registry)

    def _times(self, name: str, text: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
        return Histogram(name, text, labels, namespace=_SPACE, buckets=buckets, registry=self.registry)


class _Gauge(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], Values], labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._read = read
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        try:
            for labels, value in self._read().items():
                family.add_metric(labels, value)
        except FAILURES as error:  # the other numbers are wanted most when the disk is full
            logs.warning("a number cannot be read", name=self._name, error=error)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Without reading: what would be read may not be there yet."""
        yield GaugeMetricFamily(self._name, self._text, labels=self._labels)
