"""What becomes of one batch of the harness's provider: its times, its end, the lines it brings, and what they cost.

The provider's "model" gives four numbers that follow from the text. Knows no HTTP.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pybase64

DIMENSIONS = 4
EMBEDDINGS = "/v1/embeddings"
WINDOW_S = 86_400.0
Line = dict[str, Any]


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the provider embeds a text to: float32, shape (4,)."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSIONS).digest()
    return (np.frombuffer(digest, "<u2").astype(np.float32) + 1) / 65536


@dataclass
class Books:
    """What the provider did for money. `runs`: how often each text was embedded, and billed. `in_vain`: how often, by
    (text, reason), what was billed did not reach the client in a usable form: it has to be paid again. `unreported`
    tokens were billed but stand in no usage that the client could read."""

    runs: Counter[str] = field(default_factory=Counter)
    in_vain: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: int = 0
    unreported: int = 0
    batches: int = 0

    def overpaid(self, wanted: Iterable[str]) -> dict[str, int]:
        """How much more often than needed each wanted text was billed: empty is what a tracker must come to."""
        vain: Counter[str] = Counter()
        for (text, _reason), count in self.in_vain.items():
            vain[text] += count
        return {text: more for text in wanted if (more := self.runs[text] - vain[text] - 1)}

    def reasons(self) -> Counter[str]:
        """For how many texts something was billed in vain, by reason."""
        found: Counter[str] = Counter()
        for (_text, reason), count in self.in_vain.items():
            found[reason] += count
        return found


@dataclass
class Result:
    """One request of a batch that has ended. `line` is what goes into a file: into the error file with `failed`; None
    for nothing, bytes as they are. `told`: the client can read its usage off the line."""

    texts: list[str]
    line: Line | bytes | None
    tokens: int = 0  # billed
    failed: bool = False
    told: bool = True
    vain: set[str] = field(default_factory=set)

    @property
    def body(self) -> Any:
        """The response's body."""
        assert isinstance(self.line, dict)
        return self.line["response"]["body"]


@dataclass
class Ended:
    """A batch at its end, before its files are there: `batch` is the object on the wire, `results` its requests in
    order, `more` lines of none of them. `output` and `errors` are the files once they are written; None: no file."""

    batch: dict[str, Any]
    results: list[Result]
    books: Books
    more: list[Line | bytes] = field(default_factory=list)
    output: bytes | None = None
    errors: bytes | None = None

    def in_vain(self, result: Result, reason: str, texts: Iterable[str] | None = None) -> None:
        """Notes that what was billed for a result (or for some of its texts) is of no use to the client."""
        for text in result.texts if texts is None else texts:
            if result.tokens and text not in result.vain:
                result.vain.add(text)
                self.books.in_vain[text, reason] += 1

    def write(self) -> None:
        """The results as files' contents."""
        good = [one.line for one in self.results if one.line is not None and not one.failed]
        bad = [one.line for one in self.results if one.line is not None and one.failed]
        self.output, self.errors = jsonl([*good, *self.more]) or None, jsonl(bad) or None

    def bill(self) -> None:
        """Enters into the books what ran."""
        reported = bool((self.batch.get("usage") or {}).get("input_tokens"))
        for result in self.results:
            self.books.tokens += result.tokens
            self.books.runs.update(result.texts if result.tokens else ())
            self.books.unreported += 0 if reported or result.told else result.tokens


Change = Callable[[Ended], None]


@dataclass
class Fate:
    """What becomes of one batch. `ending` is completed, expired, cancelled, or a validation error's code. Times are
    seconds of the provider's clock; a batch that would take longer than its window expires by itself.

    `share` of its requests run where it is expired or cancelled (None: as many as its time allowed); of the others
    there are `batch_expired` or `batch_cancelled` lines, or none with `silent`. `hidden_s`, `unlisted_s`: how long the
    new batch is missing from GET /batches/{id} and from listings; `files_late_s`: how long its files answer 404 after
    its end, `ids_late_s` how long their ids are null. It is unknown for `away_s` after `away_from_s`. `results` change what it brought, `files` the written files and the batch object."""

    ending: str = "completed"
    validating_s: float = 0.0
    takes_s: float = 0.0
    finalizing_s: float = 0.0
    share: float | None = None
    silent: bool = False
    hidden_s: float = 0.0
    unlisted_s: float = 0.0
    files_late_s: float = 0.0
    ids_late_s: float = 0.0
    away_from_s: float = 0.0
    away_s: float = 0.0
    results: list[Change] = field(default_factory=list)
    files: list[Change] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        return self.ending not in ("completed", "expired", "cancelled")


@dataclass
class Life:
    """Where one batch stands on the way to its fate. `lines` are its requests, None until its file was read;
    `ended` is when it had ended."""

    fate: Fate
    created: float
    window_s: float = WINDOW_S
    held: bool = False
    lines: list[Line] | None = None
    tokens: int = 0  # prompt tokens enqueued
    ended: float | None = None
    cancelled: float | None = None  # when it was asked to cancel
    adrift: bool = False  # made by hand: never ends by itself

    @property
    def runs_from(self) -> float:
        return self.created + self.fate.validating_s

    @property
    def runs_to(self) -> float:
        return self.runs_from + self.fate.takes_s

    def status(self, now: float) -> str:
        """What it is in, or ends as, at this time."""
        if self.fate.fails:
            return "validating" if now < self.runs_from else "failed"
        if self.cancelled is not None:
            return "cancelling" if now < self.cancelled + self.fate.finalizing_s else "cancelled"
        if now < self.runs_from:
            return "validating" if now < self.created + self.window_s else "expired"
        if self.held or now < min(self.runs_to + self.fate.finalizing_s, self.created + self.window_s):
            return "in_progress" if self.held or now < self.runs_to else "finalizing"
        late = self.runs_to + self.fate.finalizing_s > self.created + self.window_s
        return "expired" if late else self.fate.ending

    def is_known(self, now: float) -> bool:
        """Whether GET /batches/{id} finds it."""
        since = now - self.created - self.fate.away_from_s
        return now >= self.created + self.fate.hidden_s and not 0 <= since < self.fate.away_s

    def is_listed(self, now: float) -> bool:
        since = now - self.created - self.fate.away_from_s
        return now >= self.created + self.fate.unlisted_s and not 0 <= since < self.fate.away_s

    def share(self, now: float) -> float:
        """How much of it has run by this time, 0 to 1."""
        if self.cancelled is not None:
            now = min(now, self.cancelled)
        now = min(now, self.created + self.window_s)
        if self.held or now < self.runs_from:
            return 0.0
        return min(1.0, (now - self.runs_from) / self.fate.takes_s) if self.fate.takes_s else 1.0


def read_lines(data: bytes) -> tuple[list[Line], str]:
    """The requests of a batch file, and the validation error that they come to ("": none)."""
    try:
        lines = [orjson.loads(line) for line in data.split(b"\n") if line]
    except orjson.JSONDecodeError:
        return [], "invalid_json_line"
    if not all(isinstance(line, dict) and {"custom_id", "body"} <= line.keys() for line in lines):
        return [], "missing_required_parameter"
    if len({line["custom_id"] for line in lines}) < len(lines):
        return [], "duplicate_custom_id"
    return lines, ""


def texts_of_line(line: Line) -> list[str]:
    """What a request is about: its inputs, or for other endpoints its whole body as one text."""
    given = line["body"].get("input")
    if isinstance(given, str):
        return [given]
    return list(given) if isinstance(given, list) else [orjson.dumps(line["body"]).decode()]


def encoded(values: Any, encoding: str | None) -> object:
    """An embedding as it was asked for."""
    return values.tolist() if encoding != "base64" else pybase64.b64encode(values.tobytes()).decode()


def jsonl(lines: Iterable[Line | bytes]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)
