"""Batches that are out: polled cheaply, fetched whole, settled once, and given up only when they are gone for good."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from embedfill import ids
from embedfill.batchapi.models import Batch
from embedfill.errors import ProviderError, UnreachableError
from embedfill.loader.packs import read_pack
from embedfill.records import Outcome
from embedfill.store import layout
from embedfill.tracker.collect import Collector
from embedfill.tracker.state import ShardState, Status
from embedfill.tracker.submit import submit
from tests.fate_fixtures import Fate
from tests.provider_fixtures import Provider, Reply, Request, cut, drop, refuse, say, vector
from tests.tracker_fixtures import PATIENCE, SPACE, Tracker, make_older, texts_of

CONTENT = "/files/.*/content"


class Settle:
    """Remembers what it was given; writes nothing."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[str], list[bytes]]] = []

    def __call__(self, state: ShardState, batch: Batch, files: list[Path]) -> Outcome:
        self.given.append((batch.status, [file.name for file in files], [file.read_bytes() for file in files]))
        return Outcome(state.shard.id, state.attempt, batch.id, batch.status, state.shard.texts, 0, 0, 0, None, ())


def out(tracker: Tracker, *texts: str) -> ShardState:
    """A shard whose batch is out."""
    shard = tracker.planned(*texts)
    assert submit(tracker.account, shard)
    return shard


def collect(tracker: Tracker, shard: ShardState, settle: Settle | None = None) -> Outcome | None:
    collector = Collector(tracker.account, settle or Settle())
    found = collector.poll([shard])
    return collector.collect(tracker.state, shard, found[str(shard.batch_id)])


def gone(tracker: Tracker, shard: ShardState) -> None:
    del tracker.provider.batches[str(shard.batch_id)]


def test_a_batch_that_runs_is_left_alone(tracker: Tracker) -> None:
    tracker.provider.hold = True
    shard = out(tracker, "a")
    assert collect(tracker, shard) is None
    assert tracker.keys("outcomes/") == [] and shard.status is Status.SUBMITTED


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_an_ended_batch_is_settled_with_its_files(tracker: Tracker, status: str) -> None:
    tracker.provider.endings = [status]
    tracker.provider.refuses = {"bad"}
    shard = out(tracker, "a")
    settle = Settle()
    outcome = collect(tracker, shard, settle)
    assert outcome is not None and outcome.status == status
    assert settle.given[0][1] == ["output.jsonl"]
    assert shard.status is Status.SETTLED
    assert tracker.again().state.refresh().shards[shard.shard.id].status is Status.SETTLED


def test_output_comes_before_errors(tracker: Tracker) -> None:
    tracker.provider.refuses = {"text number 7"}
    shard = tracker.state.shards[tracker.plan(texts_of(8), inputs_per_request=1)[0].id]
    submit(tracker.account, shard)
    settle = Settle()
    collect(tracker, shard, settle)
    ((_, names, contents),) = settle.given
    assert names == ["output.jsonl", "error.jsonl"]
    assert [len(content.splitlines()) for content in contents] == [7, 1]


@pytest.mark.parametrize("empty", [None, ""])
def test_a_file_id_that_is_empty_is_no_file(tracker: Tracker, empty: str | None) -> None:
    shard = out(tracker, "a")
    nothing = {"status": "expired", "output_file_id": empty, "error_file_id": empty, "request_counts": {"total": 1}}
    tracker.provider.batches[str(shard.batch_id)] |= {**nothing, "usage": None}
    settle = Settle()
    assert collect(tracker, shard, settle) is not None
    assert settle.given == [("expired", [], [])]


def test_a_batch_that_failed_its_validation_has_no_files(tracker: Tracker) -> None:
    tracker.provider.endings = ["model_not_found"]
    out(tracker, "a")
    (outcome,) = tracker.advance().outcomes
    assert (outcome.status, outcome.vectors, outcome.prompt_tokens, outcome.cost_usd) == ("failed", 0, 0, 0.0)
    assert outcome.errors == ("model_not_found: model_not_found it is",)


def test_a_download_that_breaks_off_is_gone_on_with_by_the_next_run(tracker: Tracker) -> None:
    texts = texts_of(100)
    out(tracker, *texts)
    tracker.provider.script("GET", CONTENT, cut(4000), *[drop] * 11)
    with pytest.raises(UnreachableError):
        tracker.advance(wait=False)
    assert tracker.keys("outcomes/") == []
    tracker.again(tracker.account.cache.root).advance()
    assert tracker.provider.asked("GET", CONTENT)[-1].headers["range"] == "bytes=4000-"
    assert len(tracker.vectors()) == 100


def test_what_was_downloaded_is_not_downloaded_again(tracker: Tracker) -> None:
    class Killed(BaseException):
        pass

    def at(point: str) -> None:
        if point == "after-download":
            raise Killed

    out(tracker, *texts_of(10))
    with pytest.raises(Killed):
        tracker.again(tracker.account.cache.root, at=at).advance()
    tracker.advance()
    assert tracker.provider.count("GET", CONTENT) == 1
    assert list(tracker.account.cache.scratch("outputs").iterdir()) == []


@pytest.mark.parametrize("route", [CONTENT, "/files/output-[0-9]*"])
def test_an_output_that_is_late_is_waited_for(tracker: Tracker, route: str) -> None:
    """What is paid must not be given up for a 404 of a moment."""
    tracker.account.patience = replace(PATIENCE, listing_delay_s=5.0)
    out(tracker, "a")
    tracker.provider.script("GET", route, *[refuse(404)] * 4)
    (outcome,) = tracker.advance().outcomes
    assert outcome.vectors == 1 and tracker.provider.count("POST", "/batches") == 1


def test_an_output_that_is_gone_is_sent_again(tracker: Tracker) -> None:
    """After a month."""
    shard = out(tracker, "a", "b")
    del tracker.provider.files[tracker.provider.batches[str(shard.batch_id)]["output_file_id"]]
    (outcome,) = tracker.advance().outcomes
    assert (outcome.status, outcome.vectors) == ("completed", 0)
    assert [one.texts for one in tracker.plan(["a", "b"])] == [2]


def test_a_batch_that_is_gone_is_lost_after_a_while_and_its_texts_go_out_again(tracker: Tracker) -> None:
    shard = out(tracker, *texts_of(4))
    gone(tracker, shard)
    assert collect(tracker, shard) is None
    (outcome,) = tracker.advance().outcomes
    assert (outcome.status, outcome.texts, outcome.vectors, outcome.batch_id) == ("lost", 4, 0, shard.batch_id)
    assert tracker.again().state.refresh().open() == []
    tracker.embed(texts_of(4))
    assert len(tracker.vectors()) == 4


def test_a_batch_that_another_account_knows_is_not_paid_again(tracker: Tracker) -> None:
    """Under another project's key batch and input file are both unknown: nothing is given up."""
    shard = out(tracker, "a", "b")
    gone(tracker, shard)
    kept = dict(tracker.provider.files)
    tracker.provider.files.clear()
    with pytest.raises(ProviderError, match=r"neither batch .* nor its input file"):
        tracker.advance()
    assert [one.status for one in tracker.again().state.refresh().open()] == [Status.SUBMITTED]
    tracker.provider.files.update(kept)
    (outcome,) = tracker.again().advance().outcomes
    assert outcome.status == "lost"


def test_a_batch_that_is_away_for_a_moment_is_not_lost(tracker: Tracker) -> None:
    tracker.account.patience = replace(PATIENCE, listing_delay_s=5.0)
    out(tracker, "a")
    tracker.provider.script("GET", "/batches/.*", *[refuse(404)] * 5)
    (outcome,) = tracker.advance().outcomes
    assert outcome.status == "completed"


def test_a_run_that_does_not_wait_looks_twice_for_a_lost_batch(tracker: Tracker) -> None:
    """And only where it is so old that no POST of it can be under way."""
    tracker.account.patience = replace(PATIENCE, listing_delay_s=0.05)
    shard = out(tracker, "a")
    gone(tracker, shard)
    assert tracker.again().advance(wait=False).outcomes == []
    make_older(tracker.account.store, layout.claim(SPACE, shard.shard.id, 1), 70.0)
    (outcome,) = tracker.again().advance(wait=False).outcomes
    assert outcome.status == "lost"


@pytest.mark.parametrize("untold", [[], ["usage"], ["request_counts"], ["usage", "request_counts"]], ids=str)
@pytest.mark.parametrize("wait", [True, False])
def test_the_id_of_an_output_that_is_late_is_waited_for(tracker: Tracker, wait: bool, untold: list[str]) -> None:
    shard = out(tracker, "a")
    batch = tracker.provider.batches[str(shard.batch_id)]
    right = dict(batch)
    batch |= {"output_file_id": None, **dict.fromkeys(untold)}
    asked = tracker.provider.handle

    def later(provider: Provider, request: Request) -> Reply:
        reply = asked(request)
        provider.batches[right["id"]] |= right
        return reply

    tracker.provider.script("GET", "/batches/.*", later)
    outcomes = tracker.advance(wait).outcomes or tracker.advance(wait).outcomes
    assert [(one.status, one.vectors) for one in outcomes] == [("completed", 1)]


@pytest.mark.parametrize("wait", [True, False])
def test_an_old_batch_that_is_away_for_a_moment_is_not_lost(tracker: Tracker, wait: bool) -> None:
    shard = out(tracker, "a")
    make_older(tracker.account.store, layout.claim(SPACE, shard.shard.id, 1), 7000.0)
    tracker.provider.script("GET", "/batches/.*", refuse(404))
    tracker.again().advance(wait)
    (outcome,) = tracker.again().advance(wait).outcomes or tracker.state.refresh().outcomes.values()
    assert (outcome.status, tracker.provider.count("POST", "/batches")) == ("completed", 1)


def test_a_run_that_does_not_wait_gives_up_an_output_that_is_gone(tracker: Tracker) -> None:
    """Else a run from cron would look for it for ever."""
    tracker.account.patience = replace(PATIENCE, listing_delay_s=0.05)
    shard = out(tracker, "a")
    del tracker.provider.files[tracker.provider.batches[str(shard.batch_id)]["output_file_id"]]
    (outcome,) = tracker.again().advance(wait=False).outcomes
    assert (outcome.status, outcome.vectors) == ("completed", 0)


def test_a_new_batch_that_cannot_be_read_yet_is_not_lost(tracker: Tracker) -> None:
    tracker.account.patience = replace(PATIENCE, listing_delay_s=5.0)
    tracker.plan(["a"])
    tracker.provider.script("GET", "/batches/.*", refuse(404))
    done = tracker.advance()
    assert (done.submitted, [outcome.status for outcome in done.outcomes]) == (1, ["completed"])


@pytest.mark.parametrize(("count", "pages", "asks"), [(1, 0, 1), (2, 0, 2), (3, 1, 0), (120, 2, 0)])
def test_many_batches_are_polled_by_pages(tracker: Tracker, count: int, pages: int, asks: int) -> None:
    batches = [tracker.provider.add_batch(f"file-{n}") for n in range(count)]
    shard = tracker.planned("a")
    shards = [replace(shard, batch_id=batch["id"]) for batch in batches]
    found = Collector(tracker.account, Settle()).poll(shards)
    assert {name: one is not None for name, one in found.items()} == {batch["id"]: True for batch in batches}
    assert tracker.provider.count("GET", "/batches") == pages
    assert tracker.provider.count("GET", "/batches/.*") == asks


def test_a_batch_far_down_the_listing_is_asked_for_by_its_id(tracker: Tracker) -> None:
    old = [tracker.provider.add_batch(f"file-{n}") for n in range(3)]
    for number in range(900):
        tracker.provider.add_batch(f"foreign-{number}")
    shard = tracker.planned("a")
    found = Collector(tracker.account, Settle()).poll([replace(shard, batch_id=batch["id"]) for batch in old])
    assert all(found[batch["id"]] for batch in old)
    assert tracker.provider.count("GET", "/batches") <= 5


def test_two_runs_settle_a_batch_once(tracker: Tracker) -> None:
    """The second comes when the first has settled, and deleted the files: it must not find the batch empty."""
    tracker.account.patience = replace(PATIENCE, listing_delay_s=0.0)
    shard = out(tracker, *texts_of(4))
    other = tracker.again(tidy=True)
    stale = tracker.again().state.refresh()
    (outcome,) = other.advance().outcomes
    assert outcome.vectors == 4 and tracker.provider.files == {}
    settle = Settle()
    collector = Collector(tracker.account, settle)
    mine = stale.shards[shard.shard.id]
    assert collector.collect(stale, mine, collector.poll([mine])[str(mine.batch_id)]) is None
    assert settle.given == []
    assert list(tracker.again().state.refresh().outcomes.values()) == [outcome]


def test_who_is_second_to_write_an_outcome_leaves_it(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = out(tracker, *texts_of(4))
    settle = Settle()
    others: list[Outcome] = []

    def slow(state: ShardState, batch: Batch, files: list[Path]) -> Outcome:
        others.extend(tracker.again().advance().outcomes)
        return settle(state, batch, files)

    collector = Collector(tracker.account, slow)
    assert collector.collect(tracker.state, shard, collector.poll([shard])[str(shard.batch_id)]) is None
    assert list(tracker.state.refresh().outcomes.values()) == others
    assert others[0].vectors == 4


def test_files_are_kept_unless_they_are_ours_to_delete(tracker: Tracker) -> None:
    out(tracker, "a")
    tracker.advance()
    assert len(tracker.provider.files) == 2 and tracker.provider.count("DELETE") == 0


def test_the_providers_ids_are_no_paths(tracker: Tracker) -> None:
    """An id goes into no file name: it may hold anything."""
    shard = out(tracker, "a")
    batch = tracker.provider.batches[str(shard.batch_id)]
    tracker.provider.script("GET", "/batches/.*", say(orjson.dumps({**batch, "id": "../../../escaped"})))
    assert collect(tracker, shard) is not None
    assert not list(tracker.account.cache.root.parent.parent.rglob("escaped*"))


def test_the_vectors_are_those_that_the_provider_gave(tracker: Tracker) -> None:
    texts = ["a", "\u2028", '"', "😀", "\0"]
    tracker.embed(texts)
    (pack,) = tracker.state.packs()
    ((text_ids, vectors),) = read_pack(tracker.account.cache.path(pack))
    assert ids.tolist(text_ids) == [ids.text_id(text) for text in texts]
    assert np.array_equal(vectors, [vector(text) for text in texts])


@pytest.mark.parametrize("late", ["away_s", "hidden_s", "files_late_s", "ids_late_s"])
@pytest.mark.parametrize("wait", [True, False])
def test_what_is_paid_and_late_for_longer_than_any_listing_is_not_paid_again(
    tracker: Tracker, late: str, wait: bool
) -> None:
    fate = Fate(**{late: 10 * PATIENCE.listing_delay_s})
    tracker.provider.fate_of = lambda _batch, _lines: fate
    patient = tracker.again(patience=replace(PATIENCE, lost_s=60.0))
    patient.plan(texts_of(7))
    while patient.state.open():
        patient.advance(wait)
        patient.state.refresh()
    assert tracker.provider.count("POST", "/batches") == 1
    assert patient.vectors() == {ids.text_id(text): [vector(text).tolist()] for text in texts_of(7)}


def test_a_batch_that_is_lost_counts_as_spent(tracker: Tracker) -> None:
    """It may have been billed: a budget must not be spent a second time."""
    shard = out(tracker, *texts_of(3))
    gone(tracker, shard)
    outcome = tracker.advance(wait=True).outcomes[0]
    assert (outcome.status, outcome.cost_usd) == ("lost", tracker.account.price_of(shard.shard))
    assert tracker.state.spent_usd() == outcome.cost_usd


def test_the_user_is_told_once_of_what_is_late(tracker: Tracker) -> None:
    tracker.provider.fate_of = lambda _batch, _lines: Fate(away_s=10 * PATIENCE.listing_delay_s)
    patient = tracker.again(patience=replace(PATIENCE, lost_s=7200.0))
    patient.plan(texts_of(3))
    said: list[str] = []
    advance = patient.advancing()
    advance.collector.note = said.append
    advance.run()
    assert len(said) == 1 and "until 2 hours after its submission" in said[0]
