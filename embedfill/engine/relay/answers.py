"""An upstream's answer as the result line of a batch, and the tokens that it says it took. Sends nothing."""

import secrets
from typing import Any

import orjson

from embedfill.engine.relay.upstream import Reply, Route
from embedfill.engine.state.spool import Result
from embedfill.engine.work.job import Item

_MOST_TOKENS = 1_000_000_000  # of one request: more is a mistake, and sums of it would not fit into the database
_ID_CHARS = 128


def result(item: Item, reply: Reply, route: Route) -> Result:
    """The line of a request that was answered: 200 goes to the output file, everything else to the error file."""
    good = reply.status == 200
    body = route.restored(reply.body, str(item.body.get("model", ""))) if good else reply.body
    response = {"status_code": reply.status, "request_id": _request_id(reply), "body": body}
    line = {
        "id": "batch_req_" + secrets.token_hex(12),
        "custom_id": item.custom_id,
        "response": response,
        "error": None,
    }
    text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    spent = usage(body)
    return Result(
        item.line,
        "output" if good else "error",
        text,
        spent["tokens"],
        cached_tokens=spent["cached_tokens"],
        output_tokens=spent["output_tokens"],
        reasoning_tokens=spent["reasoning_tokens"],
    )


def usage(body: dict[str, Any]) -> dict[str, int]:
    """Tokens by the names that Result has for them, from the answer of any endpoint; 0 where it does not say."""
    said = _object(body.get("usage"))
    taken = "prompt_tokens" if "prompt_tokens" in said else "input_tokens"
    given = "completion_tokens" if "completion_tokens" in said else "output_tokens"
    return {
        "tokens": _count(said.get(taken)),
        "cached_tokens": _count(_object(said.get(f"{taken}_details")).get("cached_tokens")),
        "output_tokens": _count(said.get(given)),
        "reasoning_tokens": _count(_object(said.get(f"{given}_details")).get("reasoning_tokens")),
    }


def cost(reply: Reply) -> int | None:
    """All tokens that an answer says it took, for the limiter; None where it does not say."""
    spent = usage(reply.body) if reply.status == 200 else None
    return spent["tokens"] + spent["output_tokens"] if spent and any(spent.values()) else None


def estimate(body: dict[str, Any], size: int) -> int:
    """Tokens that a request may cost, before anybody counted them: four bytes each, and all that it may be answered
    with."""
    limits = (body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return size // 4 + 1 + next((_count(value) for value in limits if value), 0)


def _request_id(reply: Reply) -> str:
    given = reply.headers.get("x-request-id", "")
    return given if given.isprintable() and 0 < len(given) <= _ID_CHARS else secrets.token_hex(16)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return min(value, _MOST_TOKENS) if isinstance(value, int) and value > 0 else 0
