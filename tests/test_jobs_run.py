"""Jobs of any endpoint against a provider: every request answered once, whatever happens on the way."""

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.errors import ConfigError, UsageError
from embedfill.jobs.config import load_job
from embedfill.jobs.estimate import JobEstimate
from embedfill.jobs.open import OpenJob, open_job
from embedfill.jobs.run import JobOptions, JobSummary, run_job
from tests.chat_fixtures import CHAT, Job, chat_line, content, label_of, subject
from tests.crash_worker import Fault, Trap, start
from tests.fate_fixtures import Ended, Fate
from tests.provider_fixtures import Provider

POINTS = [
    "before-plan", "after-plan", "before-upload", "before-claim", "after-claim", "before-post", "before-reference",
    "after-download", "after-decode", "between-ids-and-pack", "before-refusals", "before-outcome", "after-outcome",
]  # fmt: skip


def lines(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [chat_line(f"r{number}", subject(number)) for number in range(start, start + count)]


def run(job: Job, paid: bool = False, endpoint: str = CHAT, **options: Any) -> JobSummary:
    """The job in this process; `batch`, `prices` and others of the configuration as tables."""
    flags = {name: options.pop(name) for name in ("batch", "prices", "") if name in options}
    opened = replace(open_in(job.folder, job.provider.url, job.inputs, flags, endpoint), paid=paid)
    return run_job(opened, [job.folder / "requests.jsonl"], job.out, JobOptions(**options))


def open_in(folder: Path, url: str, inputs: int, flags: Mapping[str, Any], endpoint: str = CHAT) -> OpenJob:
    quick = {"poll_s": 0.005, "listing_delay_s": 0.05, "max_inputs": inputs}
    provider = {"provider": "generic", "base_url": url}
    config = load_job(None, {"provider": provider, **flags, "batch": quick | flags.get("batch", {})})
    return open_job(config, str(folder / "store"), endpoint)


def whole_job(folder: Path, url: str, inputs: int, fault: Fault) -> None:
    """The job in a process of its own, that kills itself."""
    opened = replace(open_in(folder, url, inputs, {}), paid=False)
    run_job(opened, [folder / "requests.jsonl"], folder / "results.parquet", JobOptions(at=Trap(fault).at))


def statuses(job: Job) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in job.results():
        found.setdefault(row["status"], []).append(row["custom_id"])
    return found


def test_answers_stand_in_the_order_of_the_input_with_usage_and_cost(job: Job) -> None:
    job.inputs = 7
    summary = run(job.write_lines(lines(30)), prices={"tiny-chat": {"input": 1.0, "output": 10.0}})
    assert list(job.said().items()) == [(f"r{number}", label_of(number)) for number in range(30)]
    assert summary.batches == job.provider.books.batches == 5
    rows = job.results()
    assert all(row["cost_usd"] == (row["prompt_tokens"] + 10) / 1e6 and row["model"] == "tiny-chat" for row in rows)
    assert summary.cost_usd == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert summary.prompt_tokens == sum(row["prompt_tokens"] for row in rows) == job.provider.books.tokens
    assert summary.completion_tokens == 30 and {row["source_row"] for row in rows} == set(range(1, 31))


def silent(ended: Ended) -> None:
    """Nobody says what it cost."""
    ended.batch["usage"] = None
    for result in ended.results:
        del result.body["usage"]


def test_what_nobody_says_the_cost_of_is_counted_by_ourselves(job: Job) -> None:
    job.provider.fates = [Fate(results=(silent,))]
    summary = run(job.write_lines(lines(3)), prices={"tiny-chat": {"input": 1.0, "output": 10.0}})
    counted = [-(-len(subject(number).encode()) // 3) + 7 for number in range(3)]
    assert [row["prompt_tokens"] for row in job.results()] == counted and summary.prompt_tokens == sum(counted)
    assert summary.cost_usd == pytest.approx(sum(counted) / 1e6)


def test_what_is_answered_is_never_sent_again_and_a_changed_body_is(job: Job) -> None:
    run(job.write_lines(lines(10)))
    assert run(job).answered == 0
    changed = [*lines(9), chat_line("r9", "about login"), *lines(2, start=10)]
    summary = run(job.write_lines(changed[::-1]))
    assert summary.answered == 3 and job.provider.books.runs.total() == 13
    assert list(job.said()) == [line["custom_id"] for line in changed[::-1]]
    assert job.said()["r9"] == "login"


def test_a_bad_line_costs_only_itself(job: Job) -> None:
    bad = [b"{broken", orjson.dumps({"custom_id": "x", "body": {"messages": []}})]
    summary = run(job.write_lines([lines(1)[0], *bad, lines(2)[1]]))
    rows = job.results()
    assert [row["status"] for row in rows] == ["ok", "rejected", "rejected", "ok"]
    assert [(row["custom_id"], row["error_code"], row["source_row"]) for row in rows[1:3]] == [
        (None, "not_json", 2), ("x", "no_model", 3),
    ]  # fmt: skip
    assert all(row["source_file"].endswith("requests.jsonl") and row["error_message"] for row in rows[1:3])
    assert summary.totals and summary.totals.statuses["rejected"] == 2 and job.provider.books.runs.total() == 2


def test_an_equal_request_twice_is_one_and_a_different_one_of_its_name_an_error(job: Job) -> None:
    prices = {"tiny-chat": {"input": 1.0, "output": 10.0}}
    summary = run(job.write_lines([*lines(3), lines(1)[0], chat_line("no", "forbidden")] * 2), prices=prices)
    rows = job.results()
    assert [row["custom_id"] for row in rows] == ["r0", "r1", "r2", "r0", "no"] * 2 and job.provider.books.batches == 1
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "failed"] * 2
    assert all((row["cost_usd"], row["prompt_tokens"]) == (0, 0) and row["body"] for row in rows[5:])
    assert summary.totals and summary.totals.cost_usd == pytest.approx(summary.cost_usd)
    job.write_lines([*lines(3), chat_line("r1", "else")])
    with pytest.raises(UsageError, match=r"requests\.jsonl row 2 and .*requests\.jsonl row 4"):
        run(job)


def test_a_refused_request_is_tried_once_and_keeps_the_providers_words(job: Job) -> None:
    job.write_lines([*lines(3), chat_line("no", "forbidden")])
    for _ in range(2):
        run(job)
    row = job.results()[3]
    assert (row["status"], row["status_code"], row["error_code"]) == ("failed", 400, "content_policy")
    assert row["error_message"] == "the message is forbidden" and "error" in orjson.loads(row["body"])
    assert sum(life.lines is not None and len(life.lines) for life in job.provider.lives.values()) == 4
    job.provider.models[CHAT] = lambda body: (200, {"choices": [{"message": {"content": "fine"}}]})
    run(job, retry=True)
    assert job.said()["no"] == "fine" and statuses(job).keys() == {"ok"}


def test_a_retry_that_is_declined_forgives_nothing(job: Job) -> None:
    job.write_lines([*lines(1), chat_line("no", "forbidden")])
    run(job)
    asked: list[JobEstimate] = []
    with pytest.raises(UsageError, match="nothing was submitted"):
        run(job, paid=True, retry=True, confirm=lambda expected: asked.append(expected) is not None)
    assert [(one.requests, one.answered, one.failed) for one in asked] == [(1, 1, 0)]
    assert run(job, paid=True, confirm=lambda _: False).batches == 0
    assert job.provider.books.batches == 1


def test_answers_of_another_input_of_the_store_are_not_counted(job: Job, provider: Provider) -> None:
    provider.hold = True
    run(job.write_lines(lines(8)), wait=False)
    provider.finish()
    provider.hold = False
    assert run(job.write_lines(lines(3, start=6))).answered == 3


def test_the_providers_own_trouble_costs_no_try(job: Job) -> None:
    def busy(ended: Ended) -> None:
        for result, status in zip(ended.results, (500, 429, 408)):
            assert isinstance(result.line, dict)
            result.line["response"] = {"status_code": status, "body": {"error": {"code": "busy", "message": "later"}}}
            result.failed, result.tokens = True, 0

    job.provider.fates = [Fate(results=(busy,))]
    summary = run(job.write_lines(lines(8)))
    assert summary.batches == 2 and statuses(job) == {"ok": [f"r{number}" for number in range(8)]}


def test_an_expired_batch_gives_up_what_it_has(job: Job) -> None:
    job.provider.fates = [Fate("expired", share=0.5), Fate("cancelled", share=0.5, silent=True)]
    run(job.write_lines(lines(20)))
    assert len(job.said()) == 20 and None not in job.said().values()
    assert set(job.provider.books.runs.values()) == {1}


def test_lines_in_any_order_repeated_foreign_or_broken_lose_nothing(job: Job) -> None:
    def shuffle(ended: Ended) -> None:
        ended.results.reverse()
        assert isinstance(ended.results[0].line, dict)
        ended.more += [ended.results[0].line, b"{broken\n", {"custom_id": None, "response": None}]
        ended.more.append({**ended.results[0].line, "custom_id": "somebody-elses-0"})

    job.provider.fates = [Fate(results=(shuffle,))]
    run(job.write_lines(lines(12)))
    assert list(job.said().values()) == [label_of(number) for number in range(12)]
    assert job.provider.books.batches == 1


def test_a_file_that_is_refused_for_one_line_goes_out_without_it(job: Job, provider: Provider) -> None:
    provider.hold = True
    run(job.write_lines(lines(5)), wait=False)
    (batch,) = provider.batches.values()
    problem = {"code": "invalid_body", "message": "no such parameter", "line": 3, "param": "body"}
    batch |= {"status": "failed", "errors": {"data": [problem]}}
    provider._running.clear()
    provider.lives[batch["id"]].lines, provider.hold = None, False
    run(job)
    assert statuses(job) == {"ok": ["r0", "r1", "r3", "r4"], "failed": ["r2"]}
    assert job.results()[2]["error_message"] == "no such parameter"


def test_each_model_has_batches_of_its_own(job: Job) -> None:
    mixed = [{**line, "body": {**line["body"], "model": f"m{number % 2}"}} for number, line in enumerate(lines(6))]
    run(job.write_lines(mixed))
    sent = [{line["body"]["model"] for line in life.lines or ()} for life in job.provider.lives.values()]
    assert sorted(map(sorted, sent)) == [["m0"], ["m1"]]
    assert [row["model"] for row in job.results()] == ["m0", "m1"] * 3


def test_without_waiting_nothing_is_written_until_all_is_there(job: Job, provider: Provider) -> None:
    provider.hold = True
    assert not run(job.write_lines(lines(4)), wait=False).finished
    assert not job.out.exists()
    assert not run(job, wait=False, partial=True).finished
    assert statuses(job) == {"pending": ["r0", "r1", "r2", "r3"]}
    provider.finish()
    assert run(job, wait=False).finished and list(job.said()) == ["r0", "r1", "r2", "r3"]


class KilledError(BaseException):
    """What nothing catches."""


def dying(at: str, times: int = 1) -> Callable[[str], None]:
    """Ends the run at the n-th passing of a point."""
    passed: list[str] = []

    def die(point: str) -> None:
        passed.extend([point] * (point == at))
        if len(passed) == times:
            raise KilledError

    return die


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_ends_at_any_point_is_gone_on_with(job: Job, point: str) -> None:
    job.inputs = 3
    job.write_lines([*lines(7), chat_line("no", "forbidden")])
    for times in (1, 2):
        with suppress(KilledError):
            run(job, at=dying(point, times))
    check_answered_once(job)


@pytest.mark.parametrize("point", ["after-claim", "before-reference", "between-ids-and-pack", "before-outcome"])
def test_a_run_that_is_killed_is_gone_on_with(job: Job, point: str) -> None:
    """By a signal that it cannot catch: in doubt of a batch, or with results half stored."""
    job.inputs = 3
    job.write_lines([*lines(7), chat_line("no", "forbidden")])
    for nth in (1, 2):
        process = start(whole_job, job.folder, job.provider.url, job.inputs, Fault(point, nth))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    check_answered_once(job)


def check_answered_once(job: Job) -> None:
    """After a last run."""
    run(job)
    assert statuses(job) == {"ok": [f"r{number}" for number in range(7)], "failed": ["no"]}
    assert set(job.provider.books.runs.values()) == {1} and job.provider.books.batches == 3


def test_what_was_planned_for_an_edited_input_is_not_sent(job: Job) -> None:
    with pytest.raises(KilledError):
        run(job.write_lines(lines(6)), at=dying("after-plan"))
    run(job.write_lines([*lines(3), *(chat_line(f"r{number}", "login again") for number in range(3, 6))]))
    assert job.provider.books.runs.total() == 6 and list(job.said().values())[3:] == ["login"] * 3


def test_nothing_is_submitted_over_the_budget_and_a_larger_one_goes_on(job: Job) -> None:
    job.inputs = 4
    prices = {"tiny-chat": {"input": 0.0, "output": 1_000_000.0}}  # a dollar a token: four a request
    parked = run(job.write_lines(lines(12)), prices=prices, batch={"budget_usd": 18.0})
    assert parked.parked and job.provider.books.batches == 1 and not job.out.exists() and not parked.finished
    partial = run(job, prices=prices, batch={"budget_usd": 19.0}, partial=True)
    assert partial.parked and len(statuses(job)["pending"]) == 8
    assert run(job, prices=prices, batch={"budget_usd": 100.0}).parked is None
    assert len(statuses(job)["ok"]) == 12 and set(job.provider.books.runs.values()) == {1}


def test_a_budget_needs_prices_and_limits(job: Job) -> None:
    line = chat_line("r0", "hello")
    del line["body"]["max_completion_tokens"]
    job.write_lines([line])
    budget, prices = {"budget_usd": 1.0}, {"tiny-chat": {"input": 1.0, "output": 2.0}}
    with pytest.raises(ConfigError, match=r"prices\.tiny-chat"):
        run(job, batch=budget)
    with pytest.raises(ConfigError, match=r"1 request has no limit .*requests\.jsonl row 1"):
        run(job, batch=budget, prices=prices)
    assert job.provider.books.batches == 0
    run(job, batch=budget, prices=prices, **{"": {"assume_output_tokens": 100}})
    assert job.said() == {"r0": "other"}


def test_what_was_sent_without_a_price_counts_at_todays(job: Job) -> None:
    run(job.write_lines(lines(4)))
    job.write_lines(lines(4, start=4))
    dear = {"tiny-chat": {"input": 0.0, "output": 1_000_000.0}}  # a dollar a token; one is generated for each
    parked = run(job, prices=dear, batch={"budget_usd": 19.0}).parked
    assert parked and "$4 spent" in parked.message and job.provider.books.batches == 1
    assert run(job, prices=dear, batch={"budget_usd": 20.0}).parked is None


def test_a_budget_asks_for_the_price_of_what_was_sent_before(job: Job, provider: Provider) -> None:
    old = chat_line("old", "login")
    old["body"]["model"] = "dear-chat"
    provider.hold = True
    run(job.write_lines([old]), wait=False)
    job.write_lines(lines(1))
    for _ in ("in flight", "answered"):
        with pytest.raises(ConfigError, match=r"prices\.dear-chat is required .*before"):
            run(job, prices={"tiny-chat": {"input": 1.0}}, batch={"budget_usd": 19.0})
        provider.finish()
        provider.hold = False
        run(job.write_lines([old]))
        job.write_lines(lines(1))


def test_images_are_assumed_or_the_budget_refuses_them(job: Job) -> None:
    parts = [{"type": "text", "text": "login"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    line = chat_line("r0", "")
    line["body"]["messages"] = [{"role": "user", "content": parts}, {"role": "user", "content": "login"}]
    job.write_lines([line])
    prices = {"tiny-chat": {"input": 1_000_000.0}}  # a dollar a token
    with pytest.raises(ConfigError, match=r"assume_media_tokens is required .*1 request has"):
        run(job, batch={"budget_usd": 50.0}, prices=prices)
    parked = run(job, batch={"budget_usd": 50.0}, prices=prices, **{"": {"assume_media_tokens": 100}}).parked
    assert parked and job.provider.books.batches == 0


def test_a_paid_submission_is_asked_for_with_what_it_may_cost(job: Job) -> None:
    asked: list[JobEstimate] = []
    job.write_lines([*lines(4), b"{"])
    prices = {"tiny-chat": {"input": 1.0, "output": 10.0}}
    with pytest.raises(UsageError, match="nothing was submitted"):
        run(job, paid=True, prices=prices, confirm=lambda expected: asked.append(expected) is not None)
    (expected,) = asked
    assert (expected.requests, expected.rejected, expected.output_tokens) == (4, 1, 16)
    assert expected.cost_usd == pytest.approx((expected.prompt_tokens + 160) / 1e6)
    assert expected.counted == {"tiny-chat": "guessed from bytes"} and job.provider.books.batches == 0
    run(job, paid=True, confirm=lambda _: True)
    run(job, paid=True, confirm=lambda _: False)  # nothing is left to be asked


def test_embeddings_with_several_inputs_keep_within_a_batch(job: Job) -> None:
    job.inputs = 10
    body = {"model": "tiny", "input": ["a", "b", "c"], "dimensions": 4}
    given = [
        {"custom_id": f"e{number}", "body": {**body, "input": [f"{number} {one}" for one in "abc"]}}
        for number in range(7)
    ]
    run(job.write_lines(given), endpoint="/v1/embeddings")
    assert [len(life.lines or ()) for life in job.provider.lives.values()] == [3, 3, 1]
    assert all(len(orjson.loads(row["body"])["data"]) == 3 for row in job.results())


def test_quota_bounds_what_is_out_at_once(job: Job, provider: Provider) -> None:
    provider.hold = True
    job.write_lines(lines(40))
    run(job, wait=False, batch={"max_enqueued_tokens": 400})
    out = [line["body"]["messages"][0]["content"] for life in provider.lives.values() for line in life.lines or ()]
    assert 300 <= sum(-(-len(said.encode()) // 3) + 7 for said in out) <= 400


def test_answers_of_another_endpoint_or_address_are_others(job: Job) -> None:
    config = load_job(None, {"provider": {"provider": "generic", "base_url": job.provider.url}})
    store = str(job.folder / "store")
    spaces = {open_job(config, store, endpoint).space for endpoint in (CHAT, "/v1/responses")}
    other = load_job(None, {"provider": {"provider": "generic", "base_url": "http://127.0.0.1:1/v1"}})
    assert len(spaces | {open_job(other, store, CHAT).space}) == 3


@pytest.mark.parametrize("provider_name, endpoint", [("local", CHAT), ("voyage", "/v1/embeddings")])
def test_providers_that_cannot_take_such_requests(tmp_path: Path, provider_name: str, endpoint: str) -> None:
    config = load_job(None, {"provider": {"provider": provider_name}})
    with pytest.raises(ConfigError, match=f"provider = '{provider_name}'"):
        open_job(config, str(tmp_path / "store"), endpoint)


def test_a_provider_without_an_address_is_told_by_this_files_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^provider\.base_url"):
        open_job(load_job(None, {"provider": {"provider": "generic"}}), str(tmp_path / "store"), CHAT)


@pytest.mark.parametrize(
    "name, batch", [("openai", {"tier": 3}), ("generic", {"tier": 1}), ("openai", {"completion_window": "7d"})]
)
def test_limits_that_are_not_known_are_refused_before_anything_is_read(
    tmp_path: Path, name: str, batch: dict[str, Any]
) -> None:
    config = load_job(None, {"provider": {"provider": name, "base_url": "http://127.0.0.1:1/v1"}, "batch": batch})
    with pytest.raises(ConfigError, match=rf"^batch\.{next(iter(batch))} = "):
        open_job(config, str(tmp_path / "store"), CHAT)
    assert not (tmp_path / "store").exists()


def test_a_named_price_is_asked_for_also_on_this_machine(tmp_path: Path) -> None:
    provider = {"provider": "generic", "base_url": "http://127.0.0.1:1/v1"}
    for price, paid in ((1.0, True), (0.0, False)):
        config = load_job(None, {"provider": provider, "prices": {"m": {"input": price}}})
        assert open_job(config, str(tmp_path / "store"), CHAT).paid is paid


def test_a_store_that_forgets_is_refused() -> None:
    config = load_job(None, {"provider": {"provider": "generic", "base_url": "http://127.0.0.1:1/v1"}})
    with pytest.raises(UsageError, match="forgets everything"):
        open_job(config, "memory://x", CHAT)


@pytest.mark.parametrize("rows", [[], [b""]])
def test_an_empty_input_has_empty_results(job: Job, rows: Sequence[bytes]) -> None:
    run(job.write_lines(rows))
    assert job.results() == [] and job.provider.books.batches == 0


def test_bodies_go_out_as_they_came(job: Job) -> None:
    body = {
        "model": "tiny-chat",
        "z": 1,
        "a": [1.5, None, True],
        "messages": [{"role": "user", "content": "\u2028 é \x00"}],
    }
    run(job.write_lines([{"custom_id": "weird \u2028 id", "body": body}]))
    (life,) = job.provider.lives.values()
    (line,) = life.lines or ()
    assert list(line["body"].items()) == list(body.items()) and line["url"] == CHAT and line["method"] == "POST"
    assert content(job.results()[0]["body"]) == "other" and job.results()[0]["custom_id"] == "weird \u2028 id"
