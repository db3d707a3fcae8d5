"""The synchronous endpoint: what it refuses, and that it shares the model fairly."""

import threading
import time

import numpy as np
import pytest

from embedfill.batchapi.limits import BODY_BYTES
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.work.pool import Gate, Pace, Pool, Runner
from embedfill.errors import RefusedError
from embedfill.models.base import Vectors
from embedfill.models.load import load
from tests.engine_fixtures import STATIC, EngineProcess, jsonl, request_line, texts


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": "text"}, "model", "missing_required_parameter"),
        ({"model": STATIC}, "input", "missing_required_parameter"),
        ({"model": STATIC, "input": ""}, "input", "invalid_value"),
        ({"model": STATIC, "input": []}, "input", "invalid_value"),
        ({"model": STATIC, "input": ["a", ""]}, "input", "invalid_value"),
        ({"model": STATIC, "input": ["a", [1]]}, "input", "invalid_value"),
        ({"model": STATIC, "input": [[]]}, "input", "invalid_value"),
        ({"model": STATIC, "input": [[1, -1]]}, "input", "invalid_value"),
        ({"model": STATIC, "input": [1, True]}, "input", "invalid_value"),
        ({"model": STATIC, "input": {"a": 1}}, "input", "invalid_value"),
        ({"model": STATIC, "input": ["a"] * 2049}, "input", "invalid_value"),
        ({"model": STATIC, "input": "word " * 3000}, "input", "context_length_exceeded"),
        ({"model": STATIC, "input": [5] * 2049}, "input", "context_length_exceeded"),
        ({"model": STATIC, "input": "w " * 200_000}, "input", "context_length_exceeded"),
        ({"model": STATIC, "input": [[5], [32_000]]}, "input", "invalid_value"),
        ({"model": STATIC, "input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"model": STATIC, "input": "a", "dimensions": 65}, "dimensions", "invalid_value"),
        ({"model": STATIC, "input": "a", "dimensions": "64"}, "dimensions", "invalid_value"),
        ({"model": "all-MiniLM-L6-v2", "input": "a", "dimensions": 128}, "dimensions", "invalid_value"),
    ],
)
def test_a_bad_request(engine: EngineProcess, body: object, param: str, code: str) -> None:
    response = engine.post("/embeddings", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    ("value", "named"),
    [(["a", 1], "input[1]"), ([[5], [32_000]], "input[1]"), (["a", "é" * 131_073], "input[1] has 262146 bytes")],
)
def test_a_bad_input_is_named(engine: EngineProcess, value: object, named: str) -> None:
    response = engine.post("/embeddings", json={"model": STATIC, "input": value})
    assert response.status_code == 400 and named in response.json()["error"]["message"]


def test_a_huge_input_is_refused_at_once(engine: EngineProcess) -> None:
    """Also in a batch, where it costs nobody else a thing."""
    huge = "word " * 1_600_000
    began = time.perf_counter()
    assert engine.post("/embeddings", json={"model": STATIC, "input": huge}).status_code == 400
    batch = engine.finished(engine.submit(jsonl([request_line("a", huge), request_line("b", "text")])))
    assert time.perf_counter() - began < 8
    (line,) = engine.lines(batch["error_file_id"])
    assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


def test_a_text_of_few_tokens_may_be_long(engine: EngineProcess) -> None:
    body = {"model": "all-MiniLM-L6-v2", "input": "x" * 65_536, "encoding_format": None}
    (item,) = engine.post("/embeddings", json=body).raise_for_status().json()["data"]
    assert len(item["embedding"]) == 384


def test_a_huge_body_is_refused(engine: EngineProcess) -> None:
    response = engine.post("/embeddings", content=b" " * (BODY_BYTES + 1))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_what_is_no_json(engine: EngineProcess) -> None:
    for data in (b"", b"{", b"[]"):
        response = engine.post("/embeddings", content=data)
        assert (response.status_code, list(response.json())) == (400, ["error"])


def test_odd_texts_are_ordinary(engine: EngineProcess) -> None:
    odd = [" ", "\x00", "<|endoftext|>", "[SEP]", "a\u2028b", "日本語", "🙂" * 50, "</s>"]
    reply = engine.post("/embeddings", json={"model": STATIC, "input": odd}).raise_for_status().json()
    vectors = np.array([item["embedding"] for item in reply["data"]])
    np.testing.assert_allclose(vectors, load(STATIC).embed(odd), atol=1e-6)


def test_unknown_paths_and_methods_have_the_envelope(engine: EngineProcess) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/files", 405), ("GET", "/embeddings", 405)):
        response = engine.http.request(method, engine.url + path)
        assert (response.status_code, response.json()["error"]["type"]) == (status, "invalid_request_error")


def test_the_event_loop_stays_free(engine: EngineProcess) -> None:
    """While a batch runs, health and synchronous requests are answered at once (medians: the machine is shared)."""
    batch = engine.submit(jsonl(request_line(f"r{n}", list(texts(50, n * 50))) for n in range(3000)))
    health: list[float] = []
    embed: list[float] = []
    while engine.batch(batch)["status"] not in ("completed", "failed") and len(health) < 40:
        for seconds, call in (
            (health, lambda: engine.get("/models")),
            (embed, lambda: engine.post("/embeddings", json={"model": STATIC, "input": "urgent"})),
        ):
            began = time.perf_counter()
            call().raise_for_status()
            seconds.append(time.perf_counter() - began)
    engine.post(f"/batches/{batch}/cancel")
    engine.finished(batch)
    assert len(health) > 5
    assert np.median(health) < 0.1
    assert np.median(embed) < 1.0


class Counting:
    """The static model, noting what it is asked for."""

    def __init__(self) -> None:
        self._model = load(STATIC)
        self.name, self.dimensions, self.max_tokens = STATIC, 256, 2048
        self.shorter_dimensions = self._model.shorter_dimensions
        self.tokenizer = self._model.tokenizer
        self.calls: list[int] = []

    def embed(self, inputs: object) -> Vectors:
        self.calls.append(len(inputs))
        return self._model.embed(inputs)


def _request(*inputs: str) -> EmbeddingRequest:
    return EmbeddingRequest(STATIC, list(inputs), False, None)


def test_identical_inputs_are_computed_once() -> None:
    model = Counting()
    answers = Runner(model).answer([_request("a", "b", "a"), _request("b"), _request("word " * 3000, "c")])
    assert sum(1 for answer in answers if isinstance(answer, Embedded)) == 2
    assert isinstance(answers[2], RefusedError)
    first, second = answers[0], answers[1]
    assert isinstance(first, Embedded) and isinstance(second, Embedded)
    np.testing.assert_array_equal(first.vectors[1], second.vectors[0])
    np.testing.assert_array_equal(first.vectors[0], first.vectors[2])
    assert first.tokens == 3 * second.tokens
    np.testing.assert_allclose(first.vectors, load(STATIC).embed(["a", "b", "a"]), atol=1e-6)


def test_long_work_is_cut_into_passes() -> None:
    model = Counting()
    rows = ["word " * (n % 200 + 1) for n in range(300)]
    (answer,) = Runner(model).answer([EmbeddingRequest(STATIC, list(rows), False, None)])
    assert isinstance(answer, Embedded)
    assert len(model.calls) > 1 and sum(model.calls) == 200
    np.testing.assert_allclose(answer.vectors, load(STATIC).embed(rows), atol=1e-5)


def test_the_gate_lets_urgent_ones_first() -> None:
    gate, order = Gate(), list[str]()
    waiting = threading.Barrier(3)

    def take(name: str, urgent: bool) -> None:
        waiting.wait()
        with gate.hold(urgent):
            order.append(name)

    threads = [threading.Thread(target=take, args=pair) for pair in (("batch", False), ("sync", True))]
    with gate.hold(False):
        for thread in threads:
            thread.start()
        waiting.wait()
        while gate._urgent == 0:  # until the urgent one stands in line
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == ["sync", "batch"]


def test_the_pace_follows_the_work() -> None:
    pace = Pace(0.5, 100, 10_000)
    assert pace.budget == 100
    pace.took(100, 0.001)
    assert pace.budget == 200  # at most twofold
    pace.took(50, 10.0)
    assert pace.budget == 200  # too little to say
    for _ in range(20):
        pace.took(pace.budget, 0.001)
    assert pace.budget == 10_000
    pace.took(10_000, 10.0)
    assert pace.budget == 500


def test_an_unknown_model() -> None:
    with pytest.raises(RefusedError, match="does not exist"):
        Pool(1).runner("gpt-none")
