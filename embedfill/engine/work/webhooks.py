"""Tells other servers of batches that have ended: signed as Standard Webhooks and the official clients have it.

An event is recorded in the change that ends its batch, and told until the receiver answers 2xx: at least once, always
with the same id. It names the batch, and holds nothing of what is in it. Follows no redirect, reads no answer.
"""

import base64
import binascii
import hashlib
import hmac
import random
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import orjson

from embedfill import __version__
from embedfill.config import secret
from embedfill.engine.settings import WebhookSettings
from embedfill.engine.state.database import Database
from embedfill.engine.telemetry import logs
from embedfill.engine.telemetry.meter import UNMETERED, Meter
from embedfill.errors import ConfigError

EVENTS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
_TIMEOUT_S = 10.0
_FIRST_S, _LONGEST_S = 1.0, 3_600.0  # between two tries: twice as long each time
GIVEN_UP_S = 3 * 86_400
_GONE = 410
_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class Hook:
    """A receiver. `key` signs."""

    url: str
    key: bytes = field(repr=False)
    events: frozenset[str]

    def headers(self, event_id: str, body: bytes) -> dict[str, str]:
        """Of one try, made now."""
        stamp = str(int(time.time()))
        signed = hmac.new(self.key, b".".join((event_id.encode(), stamp.encode(), body)), hashlib.sha256)
        return {
            "content-type": "application/json",
            "user-agent": f"embedfill/{__version__}",
            "webhook-id": event_id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(signed.digest()).decode()}",
        }


def hooks_of(settings: Sequence[WebhookSettings], environ: Mapping[str, str] | None = None) -> tuple[Hook, ...]:
    """Raises ConfigError for a secret that is missing or malformed, an unknown event, and a URL that is there twice."""
    hooks: dict[str, Hook] = {}
    for place, one in enumerate(settings):
        name = f"engine.webhooks[{place}]"
        unknown = next((event for event in one.events if event not in EVENTS), None)
        if unknown is not None:
            raise ConfigError(f"{name}.events", unknown, f"known are {', '.join(EVENTS)}")
        if one.url in hooks:
            raise ConfigError(f"{name}.url", one.url, "is there twice: name all events in one")
        hooks[one.url] = Hook(one.url, _key(f"{name}.secret_env", one.secret_env, environ), frozenset(one.events))
    return tuple(hooks.values())


def record(hooks: Sequence[Hook], connection: sqlite3.Connection, batch_id: str, status: str) -> None:
    """Part of the change that ends a batch: what each receiver is to be told."""
    kind, now = f"batch.{status}", int(time.time())
    for hook in hooks:
        if kind in hook.events:
            event_id = "evt_" + secrets.token_hex(16)
            event = {"id": event_id, "object": "event", "created_at": now, "type": kind, "data": {"id": batch_id}}
            connection.execute(
                "INSERT INTO events (id, url, body, created_at, due_at) VALUES (?, ?, ?, ?, ?)",
                (event_id, hook.url, orjson.dumps(event).decode(), now, now),
            )


class Notifier:
    """Tells one receiver. `step` makes one try, and is called by one thread only."""

    def __init__(self, database: Database, hook: Hook, meter: Meter = UNMETERED) -> None:
        self._database = database
        self._hook = hook
        self._meter = meter
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False)

    def step(self) -> bool:
        """Tells of the event that has been due for longest. False where none is."""
        query = "SELECT * FROM events WHERE url = ? AND done_at IS NULL AND due_at <= ? ORDER BY due_at LIMIT 1"
        with self._database.read() as connection:
            event = connection.execute(query, (self._hook.url, time.time())).fetchone()
        if event is None:
            return False
        answer = self._tell(event["id"], event["body"].encode())
        self._meter.webhook(orjson.loads(event["body"])["type"], answer)
        self._settle(event, answer)
        return True

    def close(self) -> None:
        self._http.close()

    def _tell(self, event_id: str, body: bytes) -> str:
        """The status of the answer, or in one word why there is none."""
        headers = self._hook.headers(event_id, body)
        try:
            with self._http.stream("POST", self._hook.url, content=body, headers=headers) as response:
                return str(response.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    def _settle(self, event: sqlite3.Row, answer: str) -> None:
        told = answer.startswith("2")
        now = time.time()
        given_up = answer == str(_GONE) or now >= event["created_at"] + GIVEN_UP_S
        done_at = int(now) if told or given_up else None
        if not told:
            last = "given up" if given_up else "to be tried again"
            logs.warning("webhook_failed", webhook=event["id"], answer=answer, tries=event["tries"] + 1, outlook=last)
        values = (done_at, now + _pause_s(event["tries"]), event["seq"])
        change = "UPDATE events SET tries = tries + 1, done_at = ?, due_at = ? WHERE seq = ?"
        self._database.write(lambda connection: connection.execute(change, values) and None).result()


def _pause_s(tries: int) -> float:
    """Until the next try, with jitter: what failed together is not to be tried together."""
    return min(_FIRST_S * 2.0 ** min(tries, 30), _LONGEST_S) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _key(name: str, variable: str, environ: Mapping[str, str] | None) -> bytes:
    """What the variable says, base64 behind `whsec_`; any other text is the key itself, as for the official clients."""
    found = secret(variable, environ)
    if found is None:
        raise ConfigError(name, variable, "the variable is not set: it holds the signing secret, whsec_ and base64")
    text = found.get_secret_value()
    if not text.startswith(_PREFIX):
        return text.encode()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError(name, variable, "the variable's value is not whsec_ and base64")
    return key
