"""Providers on 127.0.0.1 that speak as each real one is documented to, and refuse what that one would refuse.

The rules are written down once more here, from the providers' documents: what the product believes is not asked. The
model has eight numbers; the first four, which is what is asked for, are those of the harness's usual one.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest

from tests.fate_fixtures import DIMENSIONS, Fate, Life, Line, Result, encoded, texts_of_line, vector
from tests.provider_fixtures import Provider, Reply, Request, _Server

KEY = "sk-of-the-dialect"
_BATCH_KEYS = {"input_file_id", "endpoint", "completion_window", "metadata"}
_LINE_KEYS = {"custom_id", "method", "url", "body"}
_BODY_KEYS = {"model", "input", "encoding_format", "dimensions"}


@dataclass(frozen=True)
class Rules:
    """What a provider takes. `formats` are the values of encoding_format; `whole`: the length of a vector when no
    dimensions are asked for."""

    auth: str = "authorization"
    prefix: str = "Bearer "
    windows: frozenset[str] = frozenset({"24h"})
    endpoint: str = "/v1/embeddings"
    batch_keys: frozenset[str] = frozenset(_BATCH_KEYS)
    line_keys: frozenset[str] = frozenset(_LINE_KEYS)
    body_keys: frozenset[str] = frozenset(_BODY_KEYS)
    parameters: frozenset[str] | None = None  # of request_params; None: there is no such key
    dimensions: str = "dimensions"
    formats: frozenset[str] = frozenset({"float", "base64"})
    inputs: int = 2048  # of a request
    requests: int = 50_000
    texts: int = 50_000  # of a batch
    file_bytes: int = 200_000_000
    deletes_in_body: bool = False
    iso_times: bool = False
    no_usage: bool = False  # of a batch
    total_only: bool = False  # results name total_tokens alone
    leaves_out_nulls: bool = False
    null_counts: bool = False
    empty_error_file: bool = False
    american: bool = False  # "CANCELED"
    detail: bool = False  # errors are {"detail": "words"}


RULES = {
    "openai": Rules(),
    "local": Rules(),
    "generic": Rules(no_usage=True, american=True, leaves_out_nulls=True),
    "voyage": Rules(
        windows=frozenset({"12h"}), batch_keys=frozenset(_BATCH_KEYS | {"request_params"}),
        line_keys=frozenset({"custom_id", "body"}), body_keys=frozenset({"input"}),
        parameters=frozenset({"model", "input_type", "truncation", "output_dimension", "encoding_format"}),
        dimensions="output_dimension", formats=frozenset({"base64"}), inputs=1000, requests=100_000, texts=100_000,
        file_bytes=1_000_000_000, deletes_in_body=True, iso_times=True, no_usage=True, total_only=True, detail=True,
    ),
    "dashscope": Rules(
        windows=frozenset({"24h", *(f"{day}d" for day in range(2, 15))}), formats=frozenset({"float"}), inputs=10,
        no_usage=True,
    ),
    "doubleword": Rules(windows=frozenset({"24h", "1h"}), no_usage=True, leaves_out_nulls=True),
    "azure": Rules(auth="api-key", prefix="", null_counts=True, empty_error_file=True, no_usage=True),
}  # fmt: skip


class Speaking(Provider):
    """A provider of one dialect. `faults` are the rules that a client broke."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.broken: list[str] = []
        self.without: set[str] = set()  # features that are missing: see `handle` and `respond`
        self._problems: dict[str, list[dict[str, Any]]] = {}
        self._pending: list[dict[str, Any]] = []

    def handle(self, request: Request) -> Reply:
        rules = self.rules
        if request.headers.get(rules.auth) != rules.prefix + KEY:
            return self._refuse(401, "authentication", "a wrong key, or in the wrong place", rules.auth)
        if self._is_missing(request):
            return self._refuse(404, "not_found", "there is no such route", "path")
        if rules.deletes_in_body and request.method == "DELETE":
            return self._refuse(405, "method", "files are deleted with POST /files/delete", "method")
        if rules.deletes_in_body and request.path == "/files/delete":
            return self._delete_files(orjson.loads(request.body)["file_ids"])
        if (request.method, request.path) == ("POST", "/batches") and (wrong := self._wrong_batch(request)):
            return self._refuse(400, "invalid_value", *wrong)
        return self._as_spoken(super().handle(request))

    def _is_missing(self, request: Request) -> bool:
        routes = {
            "listing": request.method == "GET" and request.path == "/batches",
            "file_listing": request.method == "GET" and request.path == "/files",
            "deletion": request.method == "DELETE",
            "sync": request.path == "/embeddings",
        }
        return any(routes.get(name, False) for name in self.without)

    def _refuse(self, status: int, code: str, message: str, param: str) -> Reply:
        self.broken.append(f"{status} {message}")
        body: Any = {"error": {"message": message, "code": code, "param": param, "type": None}}
        return Reply(status, orjson.dumps({"detail": message} if self.rules.detail else body))

    def _delete_files(self, file_ids: list[str]) -> Reply:
        known = all(self.files.pop(file_id, None) is not None for file_id in file_ids)
        return Reply(200, orjson.dumps({"success": known, "error_file_ids": [] if known else file_ids}))

    # What it takes.

    def _wrong_batch(self, request: Request) -> tuple[str, str] | None:
        """Message and parameter of what is wrong with POST /batches; notes what is wrong with the file's lines."""
        body, rules = orjson.loads(request.body), self.rules
        if more := body.keys() - rules.batch_keys:
            return f"unknown parameter {min(more)}", min(more)
        if body.get("completion_window") not in rules.windows:
            return f"no such window: {body.get('completion_window')}", "completion_window"
        if body.get("endpoint") != rules.endpoint:
            return f"endpoint must be {rules.endpoint}", "endpoint"
        if rules.parameters is not None:
            given = body.get("request_params", {})
            if "model" not in given or given.keys() - rules.parameters:
                return f"request_params has {sorted(given)}", "request_params"
        self._pending = self._wrong_lines(self.files.get(body["input_file_id"], b""))
        if self._pending:
            self.broken += [problem["message"] for problem in self._pending]
            self.fates.insert(0, Fate("invalid_request"))
        return None

    def _wrong_lines(self, data: bytes) -> list[dict[str, Any]]:
        rules, problems, texts = self.rules, [], 0
        lines = data.split(b"\n")[:-1] if "split" not in self.without else data.decode().splitlines()
        for number, raw in enumerate(lines, 1):
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:  # a byte order mark, among others
                problems.append(_problem("invalid_json_line", number, "no JSON"))
                continue
            texts += len(texts_of_line(line))
            if wrong := self._wrong_line(line):
                problems.append(_problem(wrong, number, wrong))
        if len(data) > rules.file_bytes or len(lines) > rules.requests or texts > rules.texts:
            problems.append(_problem("too_many_tasks", None, "the file is too large"))
        return problems

    def _wrong_line(self, line: Line) -> str:
        rules = self.rules
        if line.keys() != rules.line_keys:
            return f"the line has {sorted(line)}"
        if "url" in line and line["url"] != rules.endpoint:
            return "invalid_url"
        if "strict_bodies" in self.without and line["body"].keys() - {"model", "input"}:
            return f"unsupported: {sorted(line['body'])}"
        more = line["body"].keys() - rules.body_keys
        missing = rules.parameters is None and "model" not in line["body"]
        return f"the body has {sorted(line['body'])}" if more or missing else ""

    def respond(self, endpoint: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        rules, texts = self.rules, body.get("input", [])
        most = 1 if "several_inputs" in self.without else rules.inputs
        if len(texts) > most:
            return self._bad(f"{len(texts)} inputs; at most {most} are allowed")
        if (kind := body.get("encoding_format")) not in (None, *rules.formats):
            return self._bad(f"encoding_format {kind}")
        wanted = body.get(rules.dimensions, 2 * DIMENSIONS)
        if wanted not in (DIMENSIONS, 2 * DIMENSIONS) or ("dimensions" in self.without and rules.dimensions in body):
            return self._bad(f"{rules.dimensions} {wanted}")
        status, reply = super().respond(endpoint, body)
        if status == 200:
            kind = None if "base64" in self.without else kind
            for item, text in zip(reply["data"], texts, strict=True):
                item["embedding"] = encoded(np.tile(vector(text), 2)[:wanted], kind)
            if "usage" in self.without:
                reply["usage"] = {"prompt_tokens": 0, "total_tokens": 0}
        return status, reply

    def _bad(self, message: str) -> tuple[int, dict[str, Any]]:
        self.broken.append(message)
        return 400, {"error": {"message": message, "code": "invalid_value"}}

    # What it answers.

    def _result(self, batch: dict[str, Any], line: Line) -> Result:
        result = super()._result(batch, line)
        if self.rules.total_only and result.line is not None and not result.failed:
            del result.body["usage"]["prompt_tokens"]
        return result

    def _end(self, batch: dict[str, Any], life: Life, status: str, now: float) -> None:
        if status == "failed" and self._pending:
            self._problems[batch["id"]], self._pending = self._pending, []
        super()._end(batch, life, status, now)
        if problems := self._problems.get(batch["id"]):
            batch["errors"] = {"object": "list", "data": problems}
        if self.rules.no_usage:
            batch["usage"] = None
        if self.rules.empty_error_file and status == "completed" and batch["error_file_id"] is None:
            batch["error_file_id"] = self.add_file(b"", "error", "error")

    def _as_spoken(self, reply: Reply) -> Reply:
        """The regular answer in the words of this provider."""
        if reply.headers.get("Content-Type") != "application/json":
            return reply
        body = orjson.loads(reply.body)
        for one in body.get("data", ()) if body.get("object") == "list" else (body,):
            if isinstance(one, dict) and one.get("object") in ("batch", "file"):
                self._reword(one)
        if reply.status >= 400 and self.rules.detail:
            body = {"detail": body.get("error", {}).get("message", "")}
        reply.body = orjson.dumps(body)
        return reply

    def _reword(self, one: dict[str, Any]) -> None:
        rules = self.rules
        if rules.iso_times:
            one.pop("expires_at", None)
            for name in [name for name in one if name.endswith("_at") and one[name] is not None]:
                one[name] = datetime.fromtimestamp(one[name], UTC).isoformat(timespec="microseconds")
            one["status"] = one["status"] if one["object"] == "batch" else None
        if one["object"] == "batch":
            if rules.null_counts and one["request_counts"] is not None:
                one["request_counts"] = dict.fromkeys(one["request_counts"])
            if rules.american:
                one["status"] = one["status"].replace("cancelled", "canceled").upper()
            if "metadata" in self.without:
                one["metadata"] = None
        if rules.leaves_out_nulls:
            for name in [name for name in one if one[name] is None]:
                del one[name]


def _problem(code: str, line: int | None, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": "url" if code == "invalid_url" else None}


@contextmanager
def served(made: Speaking) -> Iterator[Speaking]:
    """The provider, at its `url` for as long as the context lasts."""
    server = _Server(made)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not server.faults


@pytest.fixture
def speaking(impatient: None) -> Iterator[Callable[..., Speaking]]:
    """`speaking("voyage")` serves a provider of that dialect; rules may be replaced: `speaking(Rules(...))`."""
    with ExitStack() as stack:
        yield lambda rules: stack.enter_context(served(Speaking(RULES[rules] if isinstance(rules, str) else rules)))
