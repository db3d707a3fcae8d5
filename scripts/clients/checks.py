"""What the drivers share: checks that run in order and report one JSON line each. Knows no client; standard library only.

A driver runs in the environment of its client, against an engine that is there already. It gets the address and the key
as the client's own settings (OPENAI_BASE_URL, OPENAI_API_KEY), and the rest in CONFORMANCE, a JSON object.
"""

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
WORDS = ("vector", "index", "batch", "shard", "chunk", "token", "recall", "engine", "store", "query")

Check = Callable[[], Awaitable[object]]
_checks: list[tuple[str, Check]] = []


class NotServedError(Exception):
    """The engine, or this version of the client, has no such call: neither good nor bad."""


@dataclass(frozen=True)
class World:
    """Where the engine is and what it serves. `folder` is the driver's own; `hook` is where it is to listen, a port."""

    url: str
    key: str
    folder: Path
    local: str
    dimensions: int
    rehearsed: str
    chat: str
    mock: str | None
    hook: int
    hook_secret: str


def world() -> World:
    values = json.loads(os.environ["CONFORMANCE"])
    folder = Path(values.pop("folder"))
    return World(os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"], folder, **values)


def check(name: str) -> Callable[[Check], Check]:
    """Adds a check; it fails where it raises, and may return what is worth telling."""

    def add(function: Check) -> Check:
        _checks.append((name, function))
        return function

    return add


def main(*packages: str) -> None:
    """Runs every check. The first line tells the client and its version."""
    _say(client=packages[0], version=", ".join(f"{name} {version(name)}" for name in packages))
    asyncio.run(_run())


async def _run() -> None:
    for name, function in _checks:
        began = time.perf_counter()
        try:
            outcome, detail = "ok", await asyncio.wait_for(function(), PATIENCE_S)
        except NotServedError as error:
            outcome, detail = "skipped", str(error)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a finding, and the rest still runs
            traceback.print_exc(file=sys.stderr)
            outcome, detail = "failed", _told(error)
        _say(check=name, outcome=outcome, detail=str(detail or ""), seconds=round(time.perf_counter() - began, 2))


def _told(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)
    here = Path(__file__)
    ours = [frame for frame in where if Path(frame.filename).parent == here.parent and frame.filename != str(here)]
    line = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}: {ours[-1].line}" if ours else ""
    return f"{line}: {type(error).__name__}: {str(error)[:300]}"


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def settle(value: Any) -> Any:
    """What a call of a synchronous or an asynchronous client gives."""
    return await value if inspect.isawaitable(value) else value


async def each(pages: Any) -> list[Any]:
    """Everything that a client's own paging yields."""
    pages = await settle(pages) if inspect.isawaitable(pages) and not hasattr(pages, "__aiter__") else pages
    return [item async for item in pages] if hasattr(pages, "__aiter__") else list(pages)


async def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """What `look` gives once it is `good`. A check has its time limit from outside."""
    while not good(found := await settle(look())):
        await asyncio.sleep(0.02)
    return found


def texts(count: int, start: int = 0) -> list[str]:
    """Short texts, all different."""
    return [f"{WORDS[n % 10]} number {n} of the {WORDS[n // 10 % 10]}" for n in range(start, start + count)]


def jsonl(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def request(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def parsed(content: bytes) -> dict[str, dict[str, Any]]:
    """The lines of an output file by custom_id."""
    lines = [json.loads(line) for line in content.split(b"\n") if line]
    found = {line["custom_id"]: line for line in lines}
    equal(len(found), len(lines))
    return found


def equal(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def holds(condition: object, found: object = "") -> None:
    if not condition:
        raise AssertionError(f"does not hold: {found!r}")
