"""A small OpenAI-compatible server for the soak: slow, at times busy or broken, and it counts what it was asked.

`python -m tests.soak_upstream PORT` serves it. GET /calls gives how often each marker (the word after "#" in a request)
got an answer with 200. POST /hook takes webhooks, some at the second try only; GET /told gives what each batch was told.
"""

import asyncio
import random
import re
import sys
from collections import Counter
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "soak-chat"
SLOW = "soak-slow"  # takes a second for each request
_MARKER = re.compile(r"#(\S+?)[\"\\ ]")
_BUSY, _BROKEN, _WRONG = 0.02, 0.01, 0.03
_DEAF = 0.1  # to a webhook


class Upstream:
    def __init__(self, seed: int) -> None:
        self.calls: Counter[str] = Counter()
        self.told: dict[str, list[str]] = {}
        self._chance = random.Random(seed)

    async def answer(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # its engine was killed
        value = orjson.loads(body)
        await asyncio.sleep(1.0 if value["model"] == SLOW else self._chance.uniform(0.001, 0.05))
        luck = self._chance.random()
        if luck < _BUSY:
            return _error(429, "busy", {"retry-after": "0.2"})
        if luck < _BUSY + _BROKEN:
            return _error(503, "broken", {})
        marker = _MARKER.search(body.decode())
        if marker and marker[1].endswith("0") and hash(marker[1]) % 100 < 100 * _WRONG:
            return _error(400, "a request that this server does not like", {})
        if marker:
            self.calls[marker[1]] += 1
        return JSONResponse(_answer(request.url.path, value["model"], len(body)))

    async def hook(self, request: Request) -> Response:
        if self._chance.random() < _DEAF:
            return Response(status_code=500)
        event = orjson.loads(await request.body())
        told = self.told.setdefault(event["data"]["id"], [])
        name = f"{event['type']} {request.headers['webhook-id']}"
        if name not in told:  # at least once: the same event may come again
            told.append(name)
        return Response()

    async def heard(self, _request: Request) -> Response:
        return JSONResponse(self.told)

    async def counted(self, _request: Request) -> Response:
        return JSONResponse(self.calls)


def _error(status: int, message: str, headers: dict[str, str]) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status, headers)


def _answer(path: str, model: str, size: int) -> dict[str, Any]:
    used = {"prompt_tokens": size, "completion_tokens": 7, "total_tokens": size + 7}
    if path.endswith("/chat/completions"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes " * 7}}
        return {
            "id": "c-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": used,
        }
    if path.endswith("/completions"):
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "text": "yes " * 7}
        return {
            "id": "c-1",
            "object": "text_completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": used,
        }
    if path.endswith("/responses"):
        spent = {"input_tokens": size, "output_tokens": 7, "total_tokens": size + 7}
        return {"id": "r-1", "object": "response", "created_at": 1, "model": model, "output": [], "usage": spent}
    return {"id": "m-1", "model": model, "results": [{"flagged": False, "categories": {}, "category_scores": {}}]}


def main() -> None:
    upstream = Upstream(1)
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/moderations")
    routes = [Route(path, upstream.answer, methods=["POST"]) for path in paths]
    routes += [Route("/hook", upstream.hook, methods=["POST"]), Route("/told", upstream.heard)]
    app = Starlette(routes=[*routes, Route("/calls", upstream.counted)])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
