"""Cancel: what is out ends, what was done is kept, nothing is submitted, and another's batches are left alone."""

from typing import Any

import orjson
import pytest

from embedfill import cancel as library
from embedfill.cancel import Cancelled, cancel
from embedfill.clock import Clock
from embedfill.errors import UsageError
from embedfill.run import Options as RunOptions
from embedfill.run import Summary, run
from tests.chain_fixtures import Chain, documents
from tests.cli_fixtures import Cli
from tests.fate_fixtures import Fate
from tests.provider_fixtures import DIMENSIONS, Provider, Reply, Request, accept_and_drop

ROWS = 40
LONG = 1e6  # seconds that a batch would take


class World:
    """A chain whose provider is scripted."""

    def __init__(self, chain: Chain, provider: Provider) -> None:
        self.chain, self.provider = chain, provider
        chain.settings = {
            "embedding": {
                "provider": "generic", "base_url": provider.url, "model": "tiny", "dimensions": DIMENSIONS,
                "price_per_million": 1000.0,
            },
            "batch": {"max_inputs": 10, "inputs_per_request": 1, "poll_s": 0.002, "listing_delay_s": 0.03},
        }  # fmt: skip
        chain.write(documents(range(ROWS)))

    def run(self, wait: bool = True) -> Summary:
        return run(self.chain.config(), RunOptions(wait=wait))

    def cancel(self, **options: Any) -> Cancelled:
        return cancel(self.chain.config(), library.Options(**options))

    def statuses(self) -> list[str]:
        return [batch["status"] for batch in self.provider.batches.values()]


@pytest.fixture
def world(chain: Chain, provider: Provider) -> World:
    return World(chain, provider)


def test_where_nothing_is_out_nobody_is_asked(world: World) -> None:
    world.run()
    asked = len(world.provider.requests)
    assert world.cancel(confirm=lambda _: False) == Cancelled()
    assert len(world.provider.requests) == asked


def test_without_a_store_there_is_nothing_to_cancel(world: World) -> None:
    with pytest.raises(UsageError, match="no store"):
        world.cancel()
    assert not (world.chain.folder / "store").exists()


def test_what_was_done_is_kept_and_a_later_run_sends_what_is_missing(world: World) -> None:
    world.provider.fates = [Fate(takes_s=LONG, share=share) for share in (0.0, 0.5, 0.9, 1.0)]
    assert not world.run(wait=False).finished
    done = world.cancel()
    assert (done.batches, done.texts, done.ended, done.vectors) == (4, ROWS, 4, 24)
    assert done.finished and done.prompt_tokens == 24 and done.cost_usd == pytest.approx(0.024)
    assert world.statuses() == ["cancelled"] * 4
    world.provider.hold = False
    summary = world.run()
    assert (summary.texts, summary.embedded) == (ROWS, ROWS - 24)
    assert not world.provider.books.overpaid(documents_texts()) and len(world.provider.texts_sent()) >= ROWS


def documents_texts() -> list[str]:
    return [row["text"] for row in documents(range(ROWS))]


def test_a_batch_that_ended_before_it_was_asked_is_collected(world: World) -> None:
    world.provider.hold = True
    world.run(wait=False)
    world.provider.finish()
    done = world.cancel()
    assert (done.ended, done.vectors) == (4, ROWS)


def test_nothing_is_submitted(world: World) -> None:
    world.provider.fates = [Fate(takes_s=LONG)] * 4
    world.run(wait=False)
    posted = world.provider.count("POST", "/batches")
    world.cancel()
    assert world.provider.count("POST", "/batches") == posted


def test_a_no_cancels_nothing(world: World) -> None:
    world.provider.hold = True
    world.run(wait=False)
    told: list[tuple[int, int]] = []

    def no(out: Cancelled) -> bool:
        told.append((out.batches, out.texts))
        return False

    with pytest.raises(UsageError, match="nothing was cancelled"):
        world.cancel(confirm=no)
    assert told == [(4, ROWS)] and world.statuses() == ["in_progress"] * 4


def test_it_waits_until_the_provider_has_ended_them(world: World) -> None:
    """A provider lets what is under way finish: here it takes ten naps."""
    world.provider.hold = True
    world.run(wait=False)
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 10:
            for batch in world.provider.batches.values():
                batch["status"] = "cancelled"

    world.provider.script("POST", "/batches/.*/cancel", *[slowly] * 4)
    done = world.cancel(clock=Clock(sleep=sleep))
    assert (done.ended, done.finished, len(naps)) == (4, True, 10)
    assert world.provider.count("POST", "/batches/.*/cancel") == 4


def slowly(provider: Provider, request: Request) -> Reply:
    """Says that the batch is about to be cancelled, and goes on with it."""
    batch = provider.batches[request.path.split("/")[2]]
    batch["status"] = "cancelling"
    provider._running.pop(batch["id"], None)  # it no longer says by itself where it stands
    return Reply(200, orjson.dumps(batch))


def test_without_waiting_it_asks_and_leaves(world: World) -> None:
    world.provider.hold = True
    world.run(wait=False)
    world.provider.script("POST", "/batches/.*/cancel", *[slowly] * 4)
    done = world.cancel(wait=False)
    assert (done.batches, done.ended, done.finished) == (4, 0, False)
    assert world.statuses() == ["cancelling"] * 4


@pytest.mark.parametrize("lost", [["batches"], ["claims", "batches"]])
def test_what_is_in_doubt_or_lost_is_found_and_cancelled_too(world: World, lost: list[str]) -> None:
    world.provider.fates = [Fate(takes_s=LONG, share=0.5)] * 4
    world.run(wait=False)
    for name in lost:
        for path in (world.chain.folder / "store" / name).rglob("*.json"):
            path.unlink()
    done = world.cancel()
    assert (done.batches, done.ended, done.vectors) == (4, 4, 20)
    assert world.statuses() == ["cancelled"] * 4


def test_a_doubt_whose_batch_was_never_made_ends_void(world: World) -> None:
    world.provider.script("POST", "/batches", lambda _provider, _request: None)
    world.provider.fates = [Fate(takes_s=LONG)] * 3
    world.run(wait=False)
    done = world.cancel()
    assert (done.batches, done.finished) == (4, True)
    assert world.provider.books.batches == 3


def test_two_stores_on_one_account_leave_each_others_batches_alone(
    world: World, provider: Provider, new_chain: Any
) -> None:
    """The same corpus in the same space, all answers to POST lost, so that everything is in doubt in both."""
    other = World(new_chain("other"), provider)
    provider.hold = True
    for one in (world, other):
        provider.script("POST", "/batches", *[accept_and_drop] * 4)
        one.run(wait=False)
    done = world.cancel()
    assert (done.batches, done.ended) == (4, 4)
    of: dict[str, list[str]] = {}
    for batch in provider.batches.values():
        of.setdefault(batch["metadata"]["embedfill_store"], []).append(batch["status"])
    assert sorted(of.values()) == [["cancelled"] * 4, ["in_progress"] * 4]
    provider.hold = False
    provider.finish()
    for one in (other, world):
        assert one.run().texts == ROWS
    assert provider.count("POST", "/batches") == 12


def test_two_configurations_of_one_store_leave_each_others_batches_alone(
    world: World, provider: Provider, chain: Chain
) -> None:
    """Another model, so another space: cancelled is what is out of the configured one."""
    provider.hold = True
    world.run(wait=False)
    chain.settings["embedding"] = {**chain.settings["embedding"], "model": "other"}
    provider.script("POST", "/batches", *[accept_and_drop] * 4)
    world.run(wait=False)
    assert world.cancel().ended == 4
    assert world.statuses() == ["in_progress"] * 4 + ["cancelled"] * 4


def test_the_verb(cli: Cli, world: World) -> None:
    world.provider.fates = [Fate(takes_s=LONG, share=0.5)] * 4
    world.run(wait=False)
    path = world.chain.config_path
    assert cli("cancel", path, "--json").error["code"] == "usage"
    assert world.provider.count("POST", "/batches/.*/cancel") == 0
    ran = cli("cancel", path, "--yes", "--json")
    assert ran.code == 0 and ran.json["vectors"] == 20 and ran.json["finished"]
    assert cli("cancel", path).out == "nothing is in flight\n"


def test_the_verb_that_does_not_wait(cli: Cli, world: World) -> None:
    world.provider.hold = True
    world.run(wait=False)
    world.provider.script("POST", "/batches/.*/cancel", *[slowly] * 4)
    ran = cli("cancel", world.chain.config_path, "--yes", "--no-wait")
    assert ran.code == 4 and "about to end" in ran.out
