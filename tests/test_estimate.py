"""The estimate: what a run would send, counted exactly, from what the store and the corpus say."""

from dataclasses import replace

import pytest

from embedfill import ids
from embedfill.estimate import Estimate, estimate, rejected_texts, totals
from embedfill.ids import IdSet
from embedfill.progress import Quiet
from embedfill.project import Project, open_project
from embedfill.records import Rejection
from embedfill.run import scan
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
    nothing = {"new": 0, "prompt_tokens": 0, "batches": 0, "requests": 0, "bytes": 0}
    assert after == replace(before, **nothing)  # type: ignore[arg-type]


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
    refusals = Refused({name: Rejection("c", "m", text_id=name.hex()) for name in names[:3]}, frozenset())
    assert rejected_texts(IdSet(ids.array(names[1:])), refusals) == 2
    assert rejected_texts(IdSet(ids.array(names)), Refused({}, frozenset())) == 0
    assert rejected_texts(IdSet(), refusals) == 0
