"""Our files at the provider: which are orphans, and all those that must stay."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedfill.store import layout
from embedfill.store.local import LocalStore
from embedfill.tracker.submit import submit
from embedfill.tracker.uploads import Uploads
from tests.provider_fixtures import accept_and_drop, drop, refuse
from tests.tracker_fixtures import Tracker, dead_maker, texts_of

TTL_S = 60  # the claim_ttl_s of the fixture's patience
DAY_S = 86_400


def upload(tracker: Tracker, age_s: float = 10 * TTL_S, name: str = "") -> str:
    """A file that a killed run left, by the provider's clock so old."""
    file_id = tracker.provider.add_file(b"{}\n", name or tracker.account.upload_name("0" * 32))
    tracker.provider._made[file_id] -= int(age_s)
    return file_id


def uploads(tracker: Tracker, note: list[str] | None = None) -> Uploads:
    said = note if note is not None else []
    return Uploads(tracker.account, [tracker.again().state.refresh()], said.append)


def orphans(tracker: Tracker, ask: bool = True) -> list[str]:
    return [file.id for file in uploads(tracker).orphans(ask)]


def test_an_upload_that_nothing_names_is_an_orphan(tracker: Tracker) -> None:
    file_id = upload(tracker)
    assert orphans(tracker) == [file_id]
    assert list(uploads(tracker).delete([file_id])) == [file_id] and orphans(tracker) == []


def test_a_killed_runs_upload_is_found(tracker: Tracker) -> None:
    class Killed(BaseException):
        pass

    def at(point: str) -> None:
        if point == "before-claim":
            raise Killed

    dying = tracker.again(at=at, maker=dead_maker())
    dying.plan(["a"])
    with pytest.raises(Killed):
        dying.advance()
    (file_id,) = tracker.provider.files
    assert orphans(tracker) == []  # its claim may be about to be made
    tracker.provider._made[file_id] -= 2 * TTL_S
    assert orphans(tracker) == [file_id]


@pytest.mark.parametrize(
    "name",
    [
        "embedfill-store-2-" + "0" * 32 + ".jsonl",
        "embedfill-" + "0" * 32 + ".jsonl",
        "embedfill-store-1.jsonl",
        "data.jsonl",
        "",
    ],
)
def test_the_files_of_others_are_not_ours(tracker: Tracker, name: str) -> None:
    tracker.provider.names[upload(tracker)] = name
    assert orphans(tracker) == []


@pytest.mark.parametrize(("age_s", "old"), [(TTL_S - 5, False), (TTL_S + 5, True)])
@pytest.mark.parametrize("clock_s", [-100_000, 0, 100_000])
def test_only_the_providers_clock_says_how_old_a_file_is(
    tracker: Tracker, age_s: float, old: bool, clock_s: int
) -> None:
    """It is asked by an upload, which is gone afterwards."""
    tracker.provider.clock_s = clock_s
    file_id = upload(tracker, age_s)
    assert orphans(tracker) == ([file_id] if old else [])
    assert list(tracker.provider.files) == [file_id]


def test_the_clock_is_not_asked_where_later_files_tell(tracker: Tracker) -> None:
    file_id = upload(tracker, 100)
    tracker.provider.add_file(b"{}\n", "another's")
    assert orphans(tracker) == [file_id]
    assert tracker.provider.count("POST", "/files") == 0


def test_a_dry_run_uploads_nothing(tracker: Tracker) -> None:
    file_id = upload(tracker)
    assert orphans(tracker, ask=False) == [file_id] and tracker.provider.count("POST") == 0


def test_where_no_clock_can_be_asked_what_may_be_young_stays(tracker: Tracker) -> None:
    upload(tracker)
    tracker.provider.script("POST", "/files", refuse(400))
    assert orphans(tracker) == []


@pytest.mark.parametrize("answer", [drop, accept_and_drop, None])
def test_the_file_of_an_open_claim_stays(tracker: Tracker, answer: Any) -> None:
    """In doubt, or submitted."""
    tracker.provider.hold = True
    if answer:
        tracker.provider.script("POST", "/batches", answer)
    submit(tracker.account, tracker.planned("a"))
    for file_id in tracker.provider.files:
        tracker.provider._made[file_id] -= 10 * TTL_S
    assert orphans(tracker) == []


@pytest.mark.parametrize("status", ["validating", "in_progress", "completed", "failed", "cancelled"])
def test_the_input_of_a_batch_stays_whatever_became_of_it(tracker: Tracker, status: str) -> None:
    """Of one that the store has lost, for instance: it is to be found again."""
    file_id = upload(tracker, DAY_S)
    batch = tracker.provider.add_batch(file_id, status=status)
    batch["created_at"] -= DAY_S
    for number in range(150):
        tracker.provider.add_batch(f"foreign-{number}")
    assert orphans(tracker) == []


@pytest.mark.parametrize("route", ["/files", "/batches"])
def test_where_nothing_is_listed_nothing_is_deleted(tracker: Tracker, route: str) -> None:
    upload(tracker)
    tracker.provider.script("GET", route, *[refuse(404, message="no such route")] * 9)
    notes: list[str] = []
    assert uploads(tracker, notes).orphans(ask=True) == []
    assert notes == ["the provider does not list files and batches: no such route"]


def test_the_files_of_settled_batches(tracker: Tracker) -> None:
    tracker.embed(texts_of(25))
    assert orphans(tracker) == []
    names = uploads(tracker).settled()
    assert sorted(names) == sorted(tracker.provider.files) and len(names) == 6
    list(uploads(tracker).delete(names))
    assert tracker.provider.files == {}
    tracker.embed(texts_of(25))
    assert tracker.provider.books.batches == 3


def test_the_files_of_what_is_not_settled_stay(tracker: Tracker) -> None:
    tracker.provider.hold = True
    submit(tracker.account, tracker.planned("a"))
    assert uploads(tracker).settled() == []
    tracker.provider.finish()
    assert uploads(tracker).settled() == []
    tracker.advance()
    assert len(uploads(tracker).settled()) == 2


def test_the_input_of_another_batch_that_runs_stays(tracker: Tracker) -> None:
    tracker.embed(["a"])
    (batch,) = tracker.provider.batches.values()
    tracker.provider.add_batch(batch["input_file_id"])
    assert uploads(tracker).settled() == [batch["output_file_id"]]


def test_two_stores_on_one_account_never_touch_each_others_files(tracker: Tracker, tmp_path: Path) -> None:
    """The same texts in the same space, so the shards have the same ids."""
    store = LocalStore(tmp_path / "other-store")
    other = replace(tracker, account=replace(tracker.account, store=store, store_id="store-2")).again()
    for one in (tracker, other):
        one.embed(texts_of(5))
    assert set(tracker.state.shards) == set(other.state.shards)
    mine = upload(tracker)
    assert (orphans(tracker), orphans(other)) == ([mine], [])
    assert len(uploads(tracker).settled()) == len(uploads(other).settled()) == 2
    assert not set(uploads(tracker).settled()) & set(uploads(other).settled())


def test_a_void_claims_file_is_an_orphan_once_its_shard_is_settled(tracker: Tracker) -> None:
    tracker.provider.script("DELETE", "/files/.*", refuse(500), *[refuse(500)] * 9)
    tracker.provider.script("POST", "/batches", refuse(400, message="no such file yet"))
    tracker.embed(["a"])
    first = tracker.claim(next(iter(tracker.state.shards.values())), 1)
    assert layout.claim("space", first.shard, 2) in tracker.keys("claims/")
    for file_id in tracker.provider.files:
        tracker.provider._made[file_id] -= 10 * TTL_S
    assert orphans(tracker) == [first.file_id]
