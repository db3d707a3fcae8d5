"""Mischief for the harness's provider, chosen by seed or by script: everything that a provider was ever seen to do wrong.

What is chosen for a request or a batch follows from the seed and from a name that does not depend on when it comes (the
shard, its try, how often that was asked), so threads may race. It ends: no name and no text meets it more than `limit`
times, after which the provider behaves.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pybase64

from tests.fate_fixtures import Change, Ended, Fate, Line, Result, encoded, texts_of_line, vector
from tests.provider_fixtures import (
    Provider,
    Reply,
    Request,
    Script,
    accept_and_drop,
    accept_and_refuse,
    cut,
    drop,
    refuse,
    reset,
    say,
)

Chance = random.Random
Make = Callable[[Chance], Script]  # of a request
Spoil = Callable[[Ended, Result, Chance], None]  # of a line
LIMIT = 2

# ---------------------------------------------------------------------------------------------------------------------
# Requests: (place) -> kind -> script

_PASSING: dict[str, Make] = {
    "drop": lambda _: drop,
    "reset": lambda _: reset,
    "408": lambda _: refuse(408),
    "409": lambda _: refuse(409),
    "429": lambda _: refuse(429, "rate_limit_exceeded"),
    "429_s": lambda chance: refuse(429, "rate_limit_exceeded", retry_after=str(chance.randrange(1, 90))),
    "429_ms": lambda chance: refuse(429, "rate_limit_exceeded", retry_after_ms=str(chance.randrange(1, 9000))),
    "429_date": lambda _: refuse(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
    "500": lambda _: refuse(500),
    "502": lambda _: say(b"<html>bad gateway</html>", 502),
    "garbage": lambda _: say(b"<html>hello</html>"),
    "half": lambda _: lambda _provider, _request: Reply(200, b'{"id": "', {"Content-Length": "400"}),
}
_DONE: dict[str, Make] = {
    "done_drop": lambda _: accept_and_drop,
    "done_500": lambda _: accept_and_refuse(500),
    "done_502": lambda _: accept_and_refuse(502),
}
_QUOTA: dict[str, Make] = {"insufficient_quota": lambda _: refuse(429, "insufficient_quota", "you have run out")}


def _other_tag(provider: Provider, request: Request) -> Reply:
    """The file under another ETag than before: what is there does not belong to it."""
    bare = {name: value for name, value in request.headers.items() if name not in ("range", "if-range")}
    reply = provider.handle(Request(request.method, request.path, request.query, bare, request.body))
    reply.headers["ETag"] = '"another"'
    reply.sent = len(reply.body) // 2
    return reply


def _if_range_ignored(provider: Provider, request: Request) -> Reply:
    """Goes on at the byte that was asked for, but of another file; and breaks off, so that it comes to that."""
    reply = provider.handle(request)
    if reply.status == 206:
        reply.body, reply.headers["ETag"] = b"?" * len(reply.body), '"another"'
    else:
        reply.sent = len(reply.body) // 2
    return reply


def _range_ignored(provider: Provider, request: Request) -> Reply:
    bare = {name: value for name, value in request.headers.items() if name not in ("range", "if-range")}
    return provider.handle(Request(request.method, request.path, request.query, bare, request.body))


def _shorter(share: float) -> Script:
    """A truncated answer that claims to be whole: its Content-Length fits what comes."""

    def script(provider: Provider, request: Request) -> Reply:
        reply = provider.handle(request)
        reply.body = reply.body[: int(len(reply.body) * share)]
        return reply

    return script


def _cut(share: float, **headers: str) -> Script:
    def script(provider: Provider, request: Request) -> Reply | None:
        length = len(provider.handle(request).body)
        return cut(int(length * share), **headers)(provider, request)

    return script


_CONTENT: dict[str, Make] = {
    "cut": lambda chance: _cut(chance.random()),
    "cut_weak": lambda chance: _cut(chance.random(), ETag='W/"weak"'),
    "short_length": lambda chance: _shorter(chance.random()),
    "other_tag": lambda _: _other_tag,
    "if_range_ignored": lambda _: _if_range_ignored,
    "range_ignored": lambda _: _range_ignored,
    "range_wrong": lambda _: say(b"xyz", 206, content_range="bytes 7-9/10"),
    "416": lambda _: say(b"", 416),
}
_NEW_FILE: dict[str, Make] = {
    "file_unknown": lambda _: refuse(400, None, "Cannot find file file-1"),
    "done_408": lambda _: accept_and_refuse(408),
}
REQUESTS: dict[str, dict[str, Make]] = {
    "upload": {**_PASSING, **_DONE, **_QUOTA},
    "create": {**_PASSING, **_DONE, **_QUOTA, **_NEW_FILE},
    "list": _PASSING,
    "poll": _PASSING,
    "cancel": {**_PASSING, **_DONE},
    "files": _PASSING,
    "stat": _PASSING,
    "content": {**_PASSING, **_CONTENT},
    "delete": {**_PASSING, **_DONE},
    "embeddings": {**_PASSING, **_DONE},
}


def place_of(provider: Provider, request: Request) -> tuple[str, str]:
    """Which kind of request it is, and a name of what it is about that does not depend on when it comes."""
    _, kind, *rest = request.path.split("/")
    name = rest[0] if rest else ""
    if kind == "embeddings":
        return "embeddings", request.body.decode()
    if kind == "batches" and request.method == "POST" and not name:
        body = orjson.loads(request.body)
        return "create", (body.get("metadata") or {}).get("embedfill_shard", "")
    if kind == "batches":
        about = provider.label(provider.batches[name]) if name in provider.batches else name
        return ("list" if not name else "cancel" if rest[1:] else "poll"), about
    if request.method == "POST":
        return "upload", request.body.partition(b'filename="')[2].partition(b'"')[0].decode()
    place = "delete" if request.method == "DELETE" else "files" if not name else "content" if rest[1:] else "stat"
    return place, provider.names.get(name, name)


# ---------------------------------------------------------------------------------------------------------------------
# Lines: kind -> what is done to one result. Those of SPOILING make it useless, those of SUSPECT cost its texts a try.


def _replaced(reason: str, line: Callable[[Line], Line | bytes | None]) -> Spoil:
    """The line is another one (None: absent), of which nobody can tell whose it is, nor what it cost."""

    def spoil(ended: Ended, result: Result, _chance: Chance) -> None:
        assert isinstance(result.line, dict)
        ended.in_vain(result, reason)
        result.line, result.told = line(result.line), False

    return spoil


def _data(reason: str, change: Callable[[list[Any], Chance], object]) -> Spoil:
    """The body's `data` is made into something that cannot be used at all."""

    def spoil(ended: Ended, result: Result, chance: Chance) -> None:
        ended.in_vain(result, reason)
        result.body["data"] = change(result.body["data"], chance)

    return spoil


def _one(reason: str, embedding: Callable[[Chance], object]) -> Spoil:
    """The embedding of one text of the request is no use."""

    def spoil(ended: Ended, result: Result, chance: Chance) -> None:
        index = chance.randrange(len(result.texts))
        ended.in_vain(result, reason, [result.texts[index]])
        result.body["data"][index]["embedding"] = embedding(chance)

    return spoil


def _not_run(make: Callable[[Line], Line]) -> Spoil:
    """The request did not run after all: it is not billed, and goes into the error file."""

    def spoil(ended: Ended, result: Result, _chance: Chance) -> None:
        assert isinstance(result.line, dict)
        result.line, result.failed, result.tokens = make(result.line), True, 0
        counts, tokens = ended.batch["request_counts"], sum(one.tokens for one in ended.results)
        counts["completed"], counts["failed"] = counts["completed"] - 1, counts["failed"] + 1
        ended.batch["usage"] |= {"input_tokens": tokens, "total_tokens": tokens}

    return spoil


def _answer(status: int, code: str | None = None) -> Callable[[Line], Line]:
    error = {"error": {"code": code, "message": f"no: {code}", "type": None, "param": None}}
    return lambda line: {**line, "response": {"status_code": status, "request_id": "r", "body": error}}


def _nothing(line: Line) -> Line:
    return {**line, "response": None, "error": None}


def _status_zero(line: Line) -> Line:
    return {**line, "response": {"status_code": 0, "request_id": "", "body": None}, "error": None}


def _never(code: str) -> Callable[[Line], Line]:
    return lambda line: {**line, "response": None, "error": {"code": code, "message": "it never ran"}}


def _cut_line(line: Line) -> bytes:
    return orjson.dumps(line)[:-30]


SUSPECT: dict[str, Spoil] = {
    "data_short": _data("data_short", lambda data, _: data[:-1]),
    "data_long": _data("data_long", lambda data, _: [*data, {**data[0], "index": len(data)}]),
    "data_null": _data("data_null", lambda _data, _: None),
    "index_from_one": _data("index_from_one", lambda data, _: [{**one, "index": one["index"] + 1} for one in data]),
    "index_twice": _data("index_twice", lambda data, _: [*data[:-1], {**data[-1], "index": data[-1]["index"] - 1}]),
    "nan": _one("nan", lambda _: encoded(vector("x") * float("nan"), "base64")),
    "infinite": _one("infinite", lambda _: encoded(vector("x") * float("inf"), "base64")),
    "zeros": _one("zeros", lambda _: [0.0] * 4),
    "null": _one("null", lambda _: None),
    "no_base64": _one("no_base64", lambda _: "!!!not base64"),
    "odd_bytes": _one("odd_bytes", lambda _: pybase64.b64encode(b"12345").decode()),
    "400": _not_run(_answer(400, "invalid_input")),
    "422": _not_run(_answer(422)),
}
SPOILING: dict[str, Spoil] = {
    "line_dropped": _replaced("line_dropped", lambda _: None),
    "id_null": _replaced("id_null", lambda line: {**line, "custom_id": None}),
    "id_foreign": _replaced("id_foreign", lambda line: {**line, "custom_id": "another-shard-0"}),
    "id_unknown": _replaced("id_unknown", lambda line: {**line, "custom_id": f"{line['custom_id']}99999"}),
    "line_cut": _replaced("line_cut", _cut_line),
    "dimensions": _one("dimensions", lambda _: encoded(vector("x")[:1], "base64")),
    "dimensions_more": _one("dimensions_more", lambda _: [1.0] * 9),
    "both_null": _not_run(_nothing),
    "status_zero": _not_run(_status_zero),
    "never_ran": _not_run(_never("something_new")),
    "line_408": _not_run(_answer(408)),
    "line_409": _not_run(_answer(409)),
    "line_429": _not_run(_answer(429, "rate_limit_exceeded")),
    "line_500": _not_run(_answer(500)),
    "line_503": _not_run(_answer(503, "server_overloaded")),
}


def _repeated(ended: Ended, result: Result, _chance: Chance) -> None:
    assert isinstance(result.line, dict)
    ended.more.append(result.line)


def _repeated_otherwise(ended: Ended, result: Result, _chance: Chance) -> None:
    """The request once more with other vectors, after the first."""
    other = orjson.loads(orjson.dumps(result.line))
    for item in other["response"]["body"]["data"]:
        item["embedding"] = encoded(vector("another"), "base64")
    ended.more.append(other)


def _in_both(ended: Ended, result: Result, _chance: Chance) -> None:
    """The request in the error file, too."""
    assert isinstance(result.line, dict)
    ended.results.append(Result([], _answer(400, "invalid_input")(result.line), failed=True))


def _foreign_too(ended: Ended, result: Result, _chance: Chance) -> None:
    assert isinstance(result.line, dict)
    ended.more.append({**result.line, "custom_id": "another-shard-0"})


def _other_encoding(_ended: Ended, result: Result, _chance: Chance) -> None:
    """Floats where base64 was asked for, and the reverse."""
    for text, item in zip(result.texts, result.body["data"], strict=True):
        item["embedding"] = encoded(vector(text), "float" if isinstance(item["embedding"], str) else "base64")


def _data_shuffled(_ended: Ended, result: Result, chance: Chance) -> None:
    chance.shuffle(result.body["data"])


def _separators(_ended: Ended, result: Result, _chance: Chance) -> None:
    """What splitlines would split at; as it is, not escaped."""
    assert isinstance(result.line, dict)
    result.line["response"]["request_id"] = "a\u2028b\u2029c\u0085d"


def _other_model(_ended: Ended, result: Result, _chance: Chance) -> None:
    result.body["model"] = "another-model-0613"


def _no_usage(_ended: Ended, result: Result, _chance: Chance) -> None:
    result.body["usage"] = None


def _constants(_ended: Ended, result: Result, _chance: Chance) -> None:
    """JSON with the word NaN in it, beside what is of use."""
    assert isinstance(result.line, dict)
    result.line = orjson.dumps(result.line)[:-1] + b',"score":NaN}'


HARMLESS: dict[str, Spoil] = {
    "repeated": _repeated,
    "repeated_otherwise": _repeated_otherwise,
    "in_both": _in_both,
    "foreign_too": _foreign_too,
    "other_encoding": _other_encoding,
    "data_shuffled": _data_shuffled,
    "separators": _separators,
    "other_model": _other_model,
    "no_usage": _no_usage,
    "constants": _constants,
}
LINES = {**SUSPECT, **SPOILING, **HARMLESS}

# ---------------------------------------------------------------------------------------------------------------------
# Batches: kind -> fate; and what may be done to any batch's files

VALIDATION = (
    "invalid_json_line", "missing_required_parameter", "invalid_url", "url_mismatch", "model_not_found",
    "streaming_unsupported", "duplicate_custom_id", "mismatched_model", "model_mismatch", "empty_file",
    "too_many_tasks", "invalid_request", "token_limit_exceeded",
)  # fmt: skip
HOUR = 3600.0


def _no_output(ended: Ended) -> None:
    """Completed, billed, and no output file."""
    for result in ended.results:
        if not result.failed:
            ended.in_vain(result, "no_output")
            result.told = False
    ended.output = None


FATES: dict[str, Callable[[Chance], Fate]] = {
    **{code: (lambda _chance, code=code: Fate(code, validating_s=60.0)) for code in VALIDATION},  # type: ignore[misc]
    "expired": lambda chance: Fate("expired", takes_s=24 * HOUR - 1, share=chance.random()),
    "expired_silently": lambda chance: Fate("expired", takes_s=HOUR, share=chance.random(), silent=True),
    "expired_empty": lambda _: Fate("expired", takes_s=HOUR, share=0.0, silent=True),
    "too_slow": lambda chance: Fate(takes_s=chance.uniform(25, 60) * HOUR),
    "stuck_validating": lambda _: Fate(validating_s=30 * HOUR),
    "cancelled": lambda chance: Fate("cancelled", takes_s=HOUR, share=chance.random()),
    "cancelled_silently": lambda chance: Fate("cancelled", takes_s=HOUR, share=chance.random(), silent=True),
    "cancelled_empty": lambda _: Fate("cancelled", share=0.0, silent=True),
    "no_output": lambda _: Fate(files=[_no_output]),
}
SLOW: dict[str, Callable[[Chance, float], Fate]] = {
    "slow": lambda chance, _: Fate(takes_s=chance.uniform(1, 20) * HOUR),
    "long_validation": lambda chance, _: Fate(validating_s=chance.uniform(0, 900), takes_s=60.0),
    "hidden": lambda chance, late: Fate(hidden_s=chance.random() * late, takes_s=HOUR),
    "unlisted": lambda chance, late: Fate(unlisted_s=chance.random() * late, takes_s=HOUR),
    "away": lambda chance, late: Fate(
        away_from_s=chance.uniform(0, 2 * HOUR), away_s=chance.random() * late, takes_s=HOUR
    ),
    "ids_late": lambda chance, late: Fate(ids_late_s=chance.random() * late),
    "files_late": lambda chance, late: Fate(files_late_s=chance.random() * late),
}


AWAY = frozenset({"away", "ids_late", "files_late"})


def _no_newline(ended: Ended) -> None:
    ended.output = ended.output and ended.output.rstrip(b"\n")
    ended.errors = ended.errors and ended.errors.rstrip(b"\n")


def _blank_lines(ended: Ended) -> None:
    ended.output = ended.output and b"\n" + ended.output.replace(b"\n", b"\r\n\n")


def _empty_errors(ended: Ended) -> None:
    """An error file of 0 bytes."""
    ended.errors = ended.errors or b""


def _empty_ids(ended: Ended) -> None:
    """`""` where there is no file."""
    for kind, data in (("output", ended.output), ("error", ended.errors)):
        if not data:
            ended.batch[f"{kind}_file_id"] = ""


def _wrong_counts(ended: Ended) -> None:
    ended.batch["request_counts"] = {"total": 3, "completed": 99, "failed": -1}


def _null_counts(ended: Ended) -> None:
    ended.batch["request_counts"] = None


def _no_batch_usage(ended: Ended) -> None:
    ended.batch["usage"] = None


FILES: dict[str, Callable[[Chance], Change]] = {
    "no_newline": lambda _: _no_newline,
    "blank_lines": lambda _: _blank_lines,
    "empty_ids": lambda _: _empty_ids,
    "empty_errors": lambda _: _empty_errors,
    "wrong_counts": lambda _: _wrong_counts,
    "null_counts": lambda _: _null_counts,
    "no_batch_usage": lambda _: _no_batch_usage,
}
EVERYTHING = (
    *(f"{place}.{kind}" for place, kinds in REQUESTS.items() for kind in kinds),
    *(f"line.{kind}" for kind in LINES),
    *(f"batch.{kind}" for kind in (*FATES, *SLOW)),
    *(f"file.{kind}" for kind in (*FILES, "shuffled")),
)
"""The name of every kind of mischief: `place.kind`."""

# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Mischief:
    """Chooses by seed. `rates` gives the chance of single kinds (by name) or places ("create", "line", "batch", "file"),
    the more exact name first; `rate` is that of every other place. Within a place the kinds are equally likely.

    `often` bounds how often one name meets it in a place. `late_s` bounds how long something may be hidden, by the
    provider's clock: less than a tracker's listing delay. A batch that is known, and its files, may be away for up to
    `lost_s` where that is more: less than a tracker takes them for lost.
    `done` counts what was done, by kind.
    """

    seed: int
    rate: float = 0.15
    rates: Mapping[str, float] = field(default_factory=dict)
    limit: int = LIMIT
    often: int = LIMIT
    late_s: float = 20.0
    lost_s: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _met: Counter[tuple[str, str]] = field(default_factory=Counter)

    def attach(self, provider: Provider) -> Provider:
        """Has it done to this provider."""
        provider.mischief, provider.fate_of = self.request, lambda batch, lines: self.batch(provider, batch, lines)
        return provider

    def request(self, provider: Provider, request: Request) -> Script | None:
        """What a request meets; None: the regular answer."""
        place, name = place_of(provider, request)
        self._asked[place, name] += 1
        chance = self._chance(place, name, self._asked[place, name])
        kind = self._kind(place, REQUESTS[place], chance)
        most = self.often if place != "list" else 10 * self.often
        if kind is None or self._met[place, name] >= most:
            return None
        self._met[place, name] += 1
        self.done[f"{place}.{kind}"] += 1
        return REQUESTS[place][kind](chance)

    def batch(self, provider: Provider, batch: dict[str, Any], lines: list[Line]) -> Fate:
        """What becomes of a batch."""
        chance = self._chance("batch", provider.label(batch))
        fate = self._fate(chance, lines)
        fate.results.append(lambda ended: self._lines(ended, chance))
        if kind := self._kind("file", FILES, chance):
            fate.files.append(FILES[kind](chance))
            self.done[f"file.{kind}"] += 1
        return fate

    def _fate(self, chance: Chance, lines: list[Line]) -> Fate:
        kind = self._kind("batch", {**FATES, **SLOW}, chance)
        if kind in SLOW:
            self.done[f"batch.{kind}"] += 1
            return SLOW[kind](chance, max(self.late_s, self.lost_s if kind in AWAY else 0.0))
        if kind is None or not self._may([text for line in lines for text in texts_of_line(line)]):
            return Fate(takes_s=60.0)
        self.done[f"batch.{kind}"] += 1
        return FATES[kind](chance)

    def _lines(self, ended: Ended, chance: Chance) -> None:
        for result in list(ended.results):
            kind = self._kind("line", LINES, chance)
            if kind is None or result.failed or result.line is None or isinstance(result.line, bytes):
                continue
            if kind not in HARMLESS and not self._may(result.texts):
                continue
            self.done[f"line.{kind}"] += 1
            LINES[kind](ended, result, chance)
        if self._hit("file.shuffled", "file", chance):
            self.done["file.shuffled"] += 1
            chance.shuffle(ended.results)

    def _may(self, texts: list[str]) -> bool:
        """Whether these texts may once more come back without their vectors; notes that they do."""
        if any(self._met["text", text] >= self.limit for text in texts):
            return False
        self._met.update(("text", text) for text in texts)
        return True

    def _kind(self, place: str, kinds: Mapping[str, object], chance: Chance) -> str | None:
        """One of the kinds, or none. Draws as often whatever it comes to."""
        names = list(kinds)
        named = [kind for kind in names if f"{place}.{kind}" in self.rates]
        draws = [(kind, chance.random()) for kind in named]
        often, which = chance.random(), chance.random()
        for kind, draw in draws:
            if draw < self.rates[f"{place}.{kind}"]:
                return kind
        others = [kind for kind in names if kind not in named]
        hit = others and often < self.rates.get(place, self.rate)
        return others[int(which * len(others))] if hit else None

    def _hit(self, name: str, place: str, chance: Chance) -> bool:
        return chance.random() < self.rates.get(name, self.rates.get(place, self.rate))

    def _chance(self, *name: object) -> Chance:
        return random.Random("/".join(map(str, (self.seed, *name))))


def only(kind: str, seed: int = 0, rate: float = 1.0, **more: Any) -> Mischief:
    """One kind of mischief, named as in EVERYTHING, and no other."""
    return Mischief(seed, rate=0.0, rates={kind: rate}, **more)


class Drawn(Mischief):
    """Mischief as it is listed: whatever comes next in a place meets the next kind of that place's list ("" or any
    other word: nothing), until the lists are empty."""

    def __init__(self, kinds: Mapping[str, list[str]], late_s: float = 20.0) -> None:
        super().__init__(0, rate=0.0, often=10**6, late_s=late_s)
        self.kinds = {place: list(names) for place, names in kinds.items()}

    def _kind(self, place: str, kinds: Mapping[str, object], chance: Chance) -> str | None:
        left = self.kinds.get(place)
        kind = left.pop(0) if left else ""
        return kind if kind in kinds else None
