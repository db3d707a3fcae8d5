"""Batches on an upstream that fails in every way: what is tried again, what counts as failed, how they end."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from embedfill.batchapi.models import ENDPOINTS, Batch
from embedfill.engine.loop import Loop
from embedfill.engine.relay import forward, lane, limiter, patience
from embedfill.engine.relay.forward import Forwarder
from embedfill.engine.relay.upstream import Route
from embedfill.engine.settings import RouteSettings
from embedfill.engine.state.allowance import UNLIMITED
from embedfill.engine.state.batches import NewBatch
from embedfill.engine.work.jobs import Jobs
from embedfill.engine.work.served import Served
from embedfill.engine.work.validator import Validator
from tests.bench_fixtures import Bench, execute, runs
from tests.engine_fixtures import EngineProcess, jsonl, until
from tests.upstream_fixtures import (
    KEY,
    KEY_ENV,
    Asked,
    Cut,
    FakeUpstream,
    Hang,
    all_lines,
    by_id,
    failure,
    request_for,
    routes_toml,
)

CHAT = "/v1/chat/completions"
DOWN = "http://127.0.0.1:9/v1"


class Routed(Bench):
    """A bench whose models are all elsewhere."""

    def __init__(self, root: Path, **routes: RouteSettings) -> None:
        super().__init__(root)
        named = {name.replace("_", "-") + "*": settings for name, settings in routes.items()}
        self.served = Served(self.pool.names, named)
        self.validator = Validator(
            self.batches, self.files, self.spools, self.served, UNLIMITED, lambda: False, lambda: None
        )
        self.routes = {pattern: Route(pattern, settings) for pattern, settings in named.items()}
        jobs = Jobs(self.batches, self.files, self.spools, lambda batch: True)
        self.forwarder = Forwarder(
            jobs, self.batches, self.routes, lambda batch: self.served.route(batch.model or "", batch.endpoint)
        )
        self._loop = Loop("forwarder", self.forwarder.step, 1.0)
        self._begun = False

    def create(self, file_id: str, owner: str = "", key: str | None = None, **options: Any) -> str:
        new = NewBatch(options.pop("endpoint", CHAT), file_id, "24h", None, None, key, "{}", owner, **options)
        return self.batches.create(new).id

    def submit(
        self, said: list[str], model: str = "gpt-test", owner: str = "", endpoint: str = CHAT, window_s: int = 86_400
    ) -> str:
        """A validated batch with one request for each text, whose id is the text."""
        data = jsonl(request_for(endpoint, text, text, model) for text in said)
        batch_id = self.create(self.file(data, owner), owner, endpoint=endpoint, window_s=window_s)
        while self.get(batch_id).status == "validating":
            assert self.validator.step()
        return batch_id

    def start(self) -> None:
        if not self._begun:
            self._begun = True
            self._loop.start()
        self.forwarder.wake()

    def cancel(self, batch_id: str) -> None:
        self.batches.cancel(batch_id, "")
        self.forwarder.wake()

    def ended(self, batch_id: str) -> Batch:
        """The batch once it has ended."""
        self.start()
        found: Batch = until(lambda: self.get(batch_id), lambda batch: batch.ended)
        return found

    def moving(self, good: Callable[[], bool]) -> None:
        """Returns once batches run and something is so."""
        self.start()
        until(good, bool)

    def results(self, batch: Batch) -> dict[str, dict[str, Any]]:
        return by_id(self.lines(batch.output_file_id) + self.lines(batch.error_file_id))

    def stop(self, grace_s: float) -> None:
        """The orderly end of the forwarder alone."""
        self._loop.stopping.set()
        self.forwarder.wake()
        assert self._loop.stop(10.0)
        self.forwarder.close(grace_s)

    def close(self) -> None:
        if not self._loop.stopping.is_set():
            self.stop(0)
        super().close()


@pytest.fixture
def routed(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Routed]:
    """One route to the fake upstream, for gpt*, four at once."""
    made = Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, api_key_env=KEY_ENV, concurrency=4))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are a hundredth of what they are."""
    monkeypatch.setattr(lane, "_BACKOFF_S", (0.01, 0.1))
    monkeypatch.setattr(patience, "_SPAN_S", 0.6)
    monkeypatch.setattr(limiter, "_REST_S", (0.005, 0.1))
    monkeypatch.setattr(limiter, "_BLOCKED_S", (0.05, 0.1))


def counts(batch: Batch) -> tuple[str, int, int, int]:
    found = batch.request_counts
    assert found is not None
    return batch.status, found.total, found.completed, found.failed


def says(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_runs_in_a_batch(routed: Routed, upstream: FakeUpstream, endpoint: str) -> None:
    batch = routed.ended(routed.submit(["hello you"], endpoint=endpoint))
    assert counts(batch) == ("completed", 1, 1, 0) and batch.error_file_id is None
    (line,) = routed.lines(batch.output_file_id)
    (asked,) = upstream.asked
    assert asked.path == endpoint and asked.headers["authorization"] == f"Bearer {KEY}"
    assert set(line) == {"id", "custom_id", "response", "error"} and line["error"] is None
    assert line["response"]["status_code"] == 200 and line["response"]["request_id"] == "req_hello you"
    assert line["response"]["body"]["model"] == "gpt-test" and line["id"].startswith("batch_req_")
    usage = {"/v1/embeddings": (2, 0, 0, 0), "/v1/moderations": (0, 0, 0, 0)}.get(endpoint, (2, 1, 3, 2))
    assert batch.usage is not None
    assert usage == (
        batch.usage.input_tokens,
        batch.usage.input_tokens_details.cached_tokens,
        batch.usage.output_tokens,
        batch.usage.output_tokens_details.reasoning_tokens,
    )


def test_failures_that_pass_are_tried_again(routed: Routed, upstream: FakeUpstream) -> None:
    passing: dict[str, Callable[[], Response]] = {
        "busy": lambda: failure(429, "rate_limit_exceeded", retry_after_ms="20"),
        "broken": lambda: failure(500),
        "away": lambda: failure(503),
        "cut": Cut,
        "garbled": lambda: Response(b'{"id": "x', media_type="application/json"),
        "locked": lambda: failure(409),
        "no key": lambda: failure(401),
        "no money": lambda: failure(429, "insufficient_quota"),
    }
    upstream.act = lambda asked: passing[asked.said]() if asked.nth <= 2 else None
    batch_id = routed.submit(list(passing))
    batch = routed.ended(batch_id)
    assert counts(batch) == ("completed", 8, 8, 0)
    assert {line["response"]["status_code"] for line in routed.results(batch).values()} == {200}
    assert Counter(asked.said for asked in upstream.asked) == dict.fromkeys(passing, 3)
    assert runs(routed.root) == {1: 8}


def test_a_request_that_is_wrong_fails_at_once(routed: Routed, upstream: FakeUpstream) -> None:
    upstream.act = lambda asked: failure(400, "context_length_exceeded") if "long" in asked.said else None
    batch = routed.ended(routed.submit(["short", "too long"]))
    assert counts(batch) == ("completed", 2, 1, 1)
    (line,) = routed.lines(batch.error_file_id)
    assert line["custom_id"] == "too long" and line["error"] is None
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert len(upstream.asked) == 2


def test_a_request_that_always_fails_where_others_do_not_counts_as_failed(
    routed: Routed, upstream: FakeUpstream
) -> None:
    upstream.act = lambda asked: failure(500, "it_breaks") if asked.said == "poison" else None
    upstream.pause_s = 0.02
    batch = routed.ended(routed.submit(["poison", *says(300)]))
    assert counts(batch) == ("completed", 301, 300, 1)
    (line,) = routed.lines(batch.error_file_id)
    assert line["response"]["body"]["error"]["code"] == "it_breaks"
    assert sum(asked.said == "poison" for asked in upstream.asked) >= 8


def test_a_server_that_is_down_is_tried_until_the_window_ends(routed: Routed, upstream: FakeUpstream) -> None:
    upstream.act = lambda asked: Cut() if asked.said == "cut" else failure(500, "no_luck")
    batch = routed.ended(routed.submit(["cut", "refused", *says(30)], window_s=2))
    results = routed.results(batch)
    assert counts(batch) == ("expired", 32, 0, 32) and len(results) == 32
    assert results["cut"]["response"] is None and results["cut"]["error"]["code"] == "batch_expired"
    assert results["refused"]["response"]["status_code"] == 500  # it had an answer: its last one
    assert results["refused"]["response"]["body"]["error"]["code"] == "no_luck"
    assert results["text 29"]["error"]["code"] == "batch_expired"
    assert any(asked.nth > 1 for asked in upstream.asked)


def test_requests_under_way_at_the_end_of_the_window_are_given_a_while(
    routed: Routed, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_OVERTIME_S", 1.5)
    monkeypatch.setattr(forward, "_LOOK_S", 0.1)
    batch_id = routed.submit(["late", "never", *says(2)], window_s=2)
    ends_at = routed.get(batch_id).expires_at
    assert ends_at is not None
    upstream.act = lambda asked: Hang(ends_at + 0.1 - time.time() if asked.said == "late" else 60.0)
    batch = routed.ended(batch_id)
    results = routed.results(batch)
    assert counts(batch)[:2] == ("expired", 4) and len(results) == 4
    assert results["late"]["response"]["status_code"] == 200
    assert results["never"]["error"]["code"] == "batch_expired"


def test_concurrency_backs_off_and_comes_back(tmp_path: Path, upstream: FakeUpstream) -> None:
    routed = Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, concurrency=32))
    narrow = threading.Event()
    narrow.set()
    upstream.pause_s = 0.02
    upstream.act = lambda _asked: (
        failure(429, "rate_limit_exceeded") if narrow.is_set() and upstream.at_once > 4 else None
    )
    batch = routed.ended(routed.submit(says(100)))
    assert counts(batch) == ("completed", 100, 100, 0)
    assert len(upstream.asked) < 200  # not each was refused on its way
    assert routed.routes["gpt*"].limiter.window < 16
    narrow.clear()
    upstream.peak = 0
    batch = routed.ended(routed.submit(says(300, "more")))
    assert counts(batch) == ("completed", 300, 300, 0) and upstream.peak > 4
    assert routed.routes["gpt*"].limiter.window > 16
    routed.close()


def test_retry_after_is_kept(routed: Routed, upstream: FakeUpstream) -> None:
    times: list[float] = []

    def act(_asked: Asked) -> Response | None:
        times.append(time.monotonic())
        return failure(429, retry_after="1") if len(times) == 1 else None

    upstream.act = act
    routed.ended(routed.submit(["once"]))
    assert times[1] - times[0] >= 0.99


def test_no_more_than_the_concurrency_are_asked_at_once(routed: Routed, upstream: FakeUpstream) -> None:
    upstream.pause_s = 0.01
    batches = [routed.submit(says(20, f"batch {number}")) for number in range(3)]
    assert all(counts(routed.ended(batch_id))[0] == "completed" for batch_id in batches)
    assert upstream.peak == 4 == len({asked.port for asked in upstream.asked})  # connections are kept


def test_one_route_works_while_another_is_down_and_a_third_is_slow(tmp_path: Path, upstream: FakeUpstream) -> None:
    routed = Routed(
        tmp_path,
        gpt=RouteSettings(base_url=upstream.url, concurrency=4),
        slow=RouteSettings(base_url=upstream.url, concurrency=4),
        down=RouteSettings(base_url=DOWN, concurrency=4),
    )
    upstream.act = lambda asked: Hang() if asked.body["model"] == "slow" else None
    slow, down = routed.submit(says(20), "slow"), routed.submit(says(20), "down")
    began = time.monotonic()
    batch = routed.ended(routed.submit(says(100)))
    assert counts(batch) == ("completed", 100, 100, 0) and time.monotonic() - began < 10
    assert [counts(routed.get(one)) for one in (slow, down)] == [("in_progress", 20, 0, 0)] * 2
    routed.close()


def test_a_result_is_counted_while_others_are_waited_for(routed: Routed, upstream: FakeUpstream) -> None:
    upstream.act = lambda asked: Hang() if asked.said == "text 0" else None
    batch_id = routed.submit(says(10))
    routed.moving(lambda: routed.completed(batch_id) == 9)
    assert routed.get(batch_id).status == "in_progress"


def test_cancelled_in_mid_flight(routed: Routed, upstream: FakeUpstream) -> None:
    upstream.act = lambda _asked: Hang(0.6)
    batch_id = routed.submit(says(30))
    routed.moving(lambda: upstream.at_once == 4)
    routed.cancel(batch_id)
    batch = routed.ended(batch_id)
    results = routed.results(batch)
    assert counts(batch) == ("cancelled", 30, 4, 26) and len(results) == 30
    assert len(routed.lines(batch.output_file_id)) == len(upstream.asked) == 4  # what was under way was let finish
    codes = [line["error"]["code"] for line in results.values() if line["error"]]
    assert codes == ["batch_cancelled"] * 26
    assert runs(routed.root) == {0: 26, 1: 4}


def test_what_does_not_finish_is_broken_off(
    routed: Routed, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_CANCEL_S", 0.1)
    upstream.act = lambda _asked: Hang()
    batch_id = routed.submit(says(10))
    routed.moving(lambda: upstream.at_once == 4)
    routed.cancel(batch_id)
    batch = routed.ended(batch_id)
    assert counts(batch) == ("cancelled", 10, 0, 10) and len(routed.results(batch)) == 10
    until(lambda: upstream.broken_off, lambda count: count == 4)
    assert routed.routes["gpt*"].limiter.under_way == 0


def test_what_waits_to_be_tried_again_is_not_waited_for(
    routed: Routed, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "_BACKOFF_S", (600.0, 600.0))
    upstream.act = lambda _asked: failure(500)
    batch_id = routed.submit(says(3))
    routed.moving(lambda: len(upstream.asked) == 3 and upstream.at_once == 0)
    routed.cancel(batch_id)
    assert counts(routed.ended(batch_id)) == ("cancelled", 3, 0, 3)


def test_what_is_finished_runs_never_again(tmp_path: Path, upstream: FakeUpstream) -> None:
    settings = RouteSettings(base_url=upstream.url, concurrency=4)
    upstream.pause_s = 0.005
    before = Routed(tmp_path, gpt=settings)
    batch_id = before.submit(says(200))
    before.moving(lambda: before.completed(batch_id) >= 50)
    before.close()
    asked_before = len(upstream.asked)
    with closing(Routed(tmp_path, gpt=settings)) as after:
        done = after.completed(batch_id)
        batch = after.ended(batch_id)
        assert counts(batch) == ("completed", 200, 200, 0) and len(after.results(batch)) == 200
    assert 50 <= done <= asked_before < 200
    assert len(upstream.asked) - 200 == asked_before - done <= 4  # what was under way
    assert runs(tmp_path) == {1: 200}


def test_a_graceful_end_writes_what_is_under_way(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.act = lambda _asked: Hang(0.3)
    settings = RouteSettings(base_url=upstream.url, concurrency=4)
    before = Routed(tmp_path, gpt=settings)
    batch_id = before.submit(says(10))
    before.moving(lambda: upstream.at_once == 4)
    began = time.monotonic()
    before.stop(10.0)
    assert 0.1 < time.monotonic() - began < 5 and before.completed(batch_id) == 4
    assert len(upstream.asked) == 4
    before.close()


def test_a_graceful_end_is_bounded(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.act = lambda _asked: Hang()
    before = Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, concurrency=4))
    batch_id = before.submit(says(10))
    before.moving(lambda: upstream.at_once == 4)
    began = time.monotonic()
    before.stop(0.2)
    assert time.monotonic() - began < 3 and before.completed(batch_id) == 0
    before.close()


def test_owners_take_turns(tmp_path: Path, upstream: FakeUpstream) -> None:
    routed = Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, concurrency=1))
    many = routed.submit(says(60, "ada"), owner="ada")
    few = routed.submit(says(10, "bob"), owner="bob")
    routed.ended(few)
    routed.ended(many)
    assert max(place for place, asked in enumerate(upstream.asked) if "bob" in asked.said) <= 22
    routed.close()


def test_the_nearest_deadline_goes_first(tmp_path: Path, upstream: FakeUpstream) -> None:
    routed = Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, concurrency=1))
    late, soon = routed.submit(says(10, "late")), routed.submit(says(10, "soon"), window_s=3600)
    for batch_id in (late, soon):
        routed.ended(batch_id)
    assert [asked.said.split()[0] for asked in upstream.asked] == ["soon"] * 10 + ["late"] * 10
    routed.close()


def test_a_batch_whose_route_is_gone_waits_for_it_to_come_back(
    tmp_path: Path, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RouteSettings(base_url=upstream.url)
    before = Routed(tmp_path, gpt=settings)
    batch_id = before.submit(says(3))
    before.close()
    without = Routed(tmp_path, other=settings)
    without.moving(lambda: any(record.message == "batch_without_route" for record in caplog.records))
    assert counts(without.get(batch_id)) == ("in_progress", 3, 0, 0)
    without.close()
    with closing(Routed(tmp_path, gpt=settings)) as after:
        assert counts(after.ended(batch_id)) == ("completed", 3, 3, 0)


def test_a_renamed_model_has_its_name_back_in_the_results(tmp_path: Path, upstream: FakeUpstream) -> None:
    with closing(Routed(tmp_path, gpt=RouteSettings(base_url=upstream.url, model="org/Llama-3"))) as routed:
        batch = routed.ended(routed.submit(["one"]))
        assert upstream.asked[0].body["model"] == "org/Llama-3"
        assert routed.results(batch)["one"]["response"]["body"]["model"] == "gpt-test"


def test_trouble_is_logged_without_the_key(
    routed: Routed, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream.act = lambda asked: failure(401, "invalid_api_key", f"Incorrect key: {KEY}") if asked.nth == 1 else None
    assert counts(routed.ended(routed.submit(["one"])))[0] == "completed"
    (record,) = [record for record in caplog.records if record.message == "upstream_trouble"]
    fields = vars(record)["fields"]
    assert fields["status"] == 401 and fields["route"] == "gpt*" and KEY not in str(fields) + caplog.text


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_an_upstream_does_every_request_has_one_line(
    tmp_path: Path, upstream: FakeUpstream, seed: int
) -> None:
    chance = random.Random(seed)
    whims: list[Callable[[], Response | None]] = [
        *[lambda: None] * 4,
        lambda: failure(500),
        lambda: failure(429, retry_after_ms="5"),
        lambda: failure(400),
        lambda: failure(429, "insufficient_quota"),
        lambda: Response(b"<html>", 502),
        lambda: Response(b"{"),
        lambda: Hang(0.05),
        Cut,
    ]
    upstream.act = lambda _asked: chance.choice(whims)()
    settings = RouteSettings(base_url=upstream.url, concurrency=8, timeout_s=5.0)
    with closing(Routed(tmp_path, gpt=settings)) as before:
        made = [before.submit(says(40, f"batch {number}"), owner=f"owner {number % 2}") for number in range(4)]
        before.moving(lambda: before.completed(made[0]) > 3)
        before.batches.cancel(made[3], "owner 1")
    with closing(Routed(tmp_path, gpt=settings)) as after:
        batches = [after.ended(batch_id) for batch_id in made]
        for batch in batches:
            status, total, completed, failed = counts(batch)
            assert status == ("cancelled" if batch.id == made[3] else "completed")
            assert total == completed + failed == len(after.results(batch)) == 40
            assert completed == len(after.lines(batch.output_file_id))
        assert after.routes["gpt*"].limiter.under_way == 0
    assert set(runs(tmp_path)) <= {0, 1} and sum(runs(tmp_path).values()) == 160


def test_a_process_that_is_killed_goes_on_and_asks_no_finished_line_again(
    new_engine: Callable[..., EngineProcess], tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.pause_s = 0.02
    route = {"base_url": upstream.url, "api_key_env": KEY_ENV, "concurrency": 4}
    engine = new_engine("--config", str(routes_toml(tmp_path, {"gpt-*": route}))).start()
    batch_id = engine.submit(jsonl(request_for(CHAT, said, said) for said in says(200)), endpoint=CHAT)
    until(lambda: engine.batch(batch_id)["request_counts"]["completed"], lambda done: done >= 40)
    engine.kill()
    asked_before = len(upstream.asked)
    engine.start()
    done = engine.batch(batch_id)["request_counts"]["completed"]
    batch = engine.finished(batch_id)
    assert batch["status"] == "completed" and len(all_lines(engine, batch)) == 200
    assert runs(engine.data) == {1: 200}
    assert done >= 40 and len(upstream.asked) - 200 <= asked_before - 40
    upstream.act = lambda _asked: Hang(0.5)
    last = engine.submit(jsonl(request_for(CHAT, said, said) for said in says(8, "last")), endpoint=CHAT)
    until(lambda: upstream.at_once, lambda count: count == 4)
    assert engine.stop() == 0
    assert execute(engine.data, "SELECT completed FROM batches WHERE id = ?", last) == [(4,)]
