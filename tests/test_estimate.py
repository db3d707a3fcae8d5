"""The estimate: what a run would send, counted exactly, from what the store and the corpus say."""

import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from embedfill import ids
from embedfill.duration import Duration
from embedfill.estimate import Estimate, estimate, rejected_texts, totals
from embedfill.ids import IdSet
from embedfill.progress import Quiet
from embedfill.project import Project, open_project
from embedfill.records import Outcome, Rejection
from embedfill.run import Options, scan
from embedfill.store import layout
from embedfill.store.local import LocalStore
from embedfill.tracker.plan import Refused
from embedfill.tracker.state import State
from tests.chain_fixtures import Chain, documents, sentence

LONG = " ".join(sentence(number) for number in range(60))


def look(project: Project) -> Estimate:
    _, catalog = scan(project, Quiet())
    return estimate(project, catalog, State(project.store, project.cache, project.space.id))


def test_places_count_as_often_as_they_stand_and_texts_once(chain: Chain) -> None:
    rows = [{"id": str(n), "title": "t", "text": LONG} for n in range(4)] + documents(range(3))
    project = open_project(chain.write(rows).config(chunking={"max_tokens": 64}))
    _, catalog = scan(project, Quiet())
    whole = totals(project, catalog)
    assert whole.chunks == 4 * (len(whole.texts) - 3) + 3
    assert len(whole.texts) > 10


def test_it_foretells_the_run(chain: Chain) -> None:
    chain.write([*documents(range(230)), {"id": None, "title": "t", "text": "x"}]).config()
    before = look(open_project(chain.config()))
    assert (before.documents, before.texts, before.new, before.rejected, before.in_flight) == (230, 230, 230, 1, 0)
    summary = chain.run()
    assert (summary.batches, summary.prompt_tokens, summary.embedded) == (3, before.prompt_tokens, 230)
    after = look(open_project(chain.config()))
    nothing: dict[str, Any] = {
        "new": 0, "prompt_tokens": 0, "batches": 0, "requests": 0, "bytes": 0, "download_bytes": 0,
        "duration": Duration(0, None, None, None, None, 0), "disk": after.disk,
    }  # fmt: skip
    assert after == replace(before, **nothing)
    assert [room.needed for room in after.disk.values()] == [0, 0, 0]


def test_only_what_changed_is_new(chain: Chain) -> None:
    chain.write(documents(range(30))).run()
    rows = documents(range(30))
    rows[4]["text"] = "A zeppelin lands."
    chain.write([*rows, *documents([99])])
    found = look(open_project(chain.config()))
    assert (found.documents, found.texts, found.new, found.batches, found.requests) == (31, 31, 2, 1, 1)


def test_what_is_planned_but_not_submitted_is_still_to_be_paid(chain: Chain) -> None:
    chain.write(documents(range(30))).run_and_die("after-plan")
    chain.write(documents(range(40)), "corpus.parquet")
    found = look(open_project(chain.config()))
    assert (found.new, found.in_flight, found.batches) == (40, 0, 2)


def test_it_changes_nothing_but_chunks(chain: Chain) -> None:
    chain.write(documents(range(30)))
    look(open_project(chain.config()))
    folders = {entry.key.partition("/")[0] for entry in LocalStore(chain.folder / "store").list("")}
    assert folders == {"store.json", "chunks", "documents", "catalogs"}
    assert [path for path in (chain.folder / "cache").rglob("*.parquet") if path.is_file()] == []


def test_batches_follow_the_quota(chain: Chain) -> None:
    chain.write(documents(range(200)))
    free = look(open_project(chain.config()))
    tight = look(open_project(chain.config(batch={"max_enqueued_tokens": 400})))
    assert free.batches == 2
    assert tight.batches >= tight.prompt_tokens / 100
    assert (tight.new, tight.prompt_tokens) == (free.new, free.prompt_tokens)


@pytest.mark.parametrize(("price", "usd"), [(None, None), (0.0, 0.0), (2.5, 2.5)])
def test_the_price_is_per_million_tokens(chain: Chain, price: float | None, usd: float | None) -> None:
    project = replace(open_project(chain.write(documents(range(9))).config()), price=price)
    found = look(project)
    assert found.price_per_million == price
    assert found.cost_usd == (usd and pytest.approx(found.prompt_tokens * usd / 1e6))


def test_only_texts_that_are_wanted_count_as_rejected() -> None:
    names = [ids.text_id(str(number)) for number in range(4)]
    refusals = Refused({name: Rejection("c", "m", text_id=name.hex()) for name in names[:3]}, {})
    assert rejected_texts(IdSet(ids.array(names[1:])), refusals) == 2
    assert rejected_texts(IdSet(ids.array(names)), Refused({}, {})) == 0
    assert rejected_texts(IdSet(), refusals) == 0


def test_waves_follow_the_limit_and_count_what_is_out(chain: Chain) -> None:
    openai = {"provider": "openai", "model": "text-embedding-3-small"}
    chain.write(documents(range(60)))
    free = look(open_project(chain.config(embedding=openai)))
    assert (free.duration.waves, free.duration.max_enqueued_tokens, free.duration.worst_s) == (1, None, 86_400.0)
    limit = free.prompt_tokens // 3
    project = open_project(chain.config(embedding=openai, batch={"max_enqueued_tokens": limit}))
    tight = look(project)
    assert (tight.duration.waves, tight.duration.worst_s) == (4, 4 * 86_400.0)
    assert (tight.duration.typical_s, tight.duration.past_batches) == (None, 0)
    for number, seconds in enumerate([60.0, 600.0, 6000.0, None]):
        past = Outcome(f"{number:032x}", 1, f"b{number}", "completed", 9, 9, 0, 90, 0.0, (), seconds=seconds)
        project.store.create(layout.outcome(project.space.id, past.shard, 1), ids.canonical(asdict(past)))
    known = look(project)
    assert (known.duration.typical_s, known.duration.past_batches) == (2400.0, 3)


def test_what_comes_down_and_what_it_needs_on_disk_is_enough(chain: Chain) -> None:
    chain.write(documents(range(230)))
    project = open_project(chain.config())
    before = look(project)
    rooms = {name: Path(room.path) for name, room in before.disk.items()}
    held = {name: _size(path) for name, path in rooms.items()}
    most = dict(held)

    def at(_point: str) -> None:
        most.update({name: max(most[name], _size(path)) for name, path in rooms.items()})

    chain.run(Options(at=at))
    for name, room in before.disk.items():
        assert room.free is not None and room.needed == sum(room.parts.values()) and not room.short
        assert most[name] - held[name] <= room.needed + 20_000, name  # and small objects: plans, claims, outcomes
    packs = list(project.store.list("packs/"))
    assert 0.6 * before.disk["store"].parts["packs"] < sum(entry.size for entry in packs)
    index = sum(entry.size for entry in project.store.list("index/"))
    assert 0.6 * before.disk["store"].parts["index"] < index <= before.disk["store"].parts["index"]


def _size(folder: Path) -> int:
    """Bytes of its files, without those of an engine in it and of the engine's database."""
    total = 0
    for above, folders, names in os.walk(folder):
        if "engine" in folders:
            folders.remove("engine")
        for name in names:
            with suppress(FileNotFoundError):
                total += 0 if name.startswith("engine.") else (Path(above) / name).stat().st_size
    return total
