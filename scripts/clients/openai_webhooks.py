"""Webhooks of batches, checked by the official client's own `webhooks.unwrap`."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import openai

from checks import NotServedError
from openai_kit import CLIENTS, WORLD, both, embedding_lines, ended, submit

WAIT_S = 20.0
calls: "Queue[tuple[bytes, dict[str, str]]]" = Queue()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        calls.put((self.rfile.read(int(self.headers["content-length"])), dict(self.headers)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


# From the start: the engine tells of every batch, and would try again what nobody takes.
_server = ThreadingHTTPServer(("127.0.0.1", WORLD.hook), Handler)
threading.Thread(target=_server.serve_forever, daemon=True).start()


@both("webhooks: unwrap")
async def webhooks(client: Any) -> None:
    if not hasattr(client, "webhooks"):
        raise NotServedError("this version of the client knows no webhooks")
    done = await ended(client, await submit(client, "/v1/embeddings", embedding_lines(2)))
    bad = await ended(client, await submit(client, "/v1/embeddings", [{"custom_id": "a"}]))
    wanted = {("batch.completed", done.id), ("batch.failed", bad.id)}
    while wanted:
        payload, headers = calls.get(timeout=WAIT_S)
        event = CLIENTS["sync"].webhooks.unwrap(payload, headers, secret=WORLD.hook_secret)
        type(event).model_validate(event.to_dict(mode="json"), strict=True)
        wanted.discard((event.type, event.data.id))
    try:
        CLIENTS["sync"].webhooks.unwrap(payload + b" ", headers, secret=WORLD.hook_secret)
    except openai.InvalidWebhookSignatureError:
        return
    raise AssertionError("a payload that was changed on the way is taken")
