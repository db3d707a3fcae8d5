"""The kill matrix: every case kills, lets the work go on, and asserts what it came to. Tests play them, and
scripts/crash_table prints their figures, a row for each kind."""

import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from random import Random
from typing import Any

from embedfill.prune import POINTS as PRUNE_POINTS
from tests.crash_worker import LOST_ANSWER, PARKED, Fault
from tests.crash_world import CALLS, TEXTS, Figures, RunWorld, World, wait_until
from tests.fate_fixtures import Fate
from tests.mischief_fixtures import Mischief
from tests.provider_fixtures import Provider, Reply, Request, Script, accept_and_drop, cut
from tests.tracker_fixtures import texts_of

# Every named point of the write order, in the order in which a tracker passes them.
POINTS = [
    "before-plan", "after-plan", "before-upload", "before-claim", "after-claim", "before-post", "before-reference",
    "after-download", "after-decode", "between-ids-and-pack", "before-refusals", "before-outcome", "after-outcome",
]  # fmt: skip
DOUBT_POINTS = ["before-fence", "after-fence"]
OTHER_POINTS = ["after-close", "after-recovered-claim"]
CANCEL_POINTS = ["before-cancel", "after-cancel"]
RUN_POINTS = ["after-index", "before-snapshot", "before-publication"]
# Parts of the code, and calls that each makes at least.
PARTS = {
    "tracker/plan": 50, "tracker/shards": 300, "tracker/submit": 18, "providers/download": 20, "loader/decode": 200,
    "loader/packs": 40, "loader/settle": 30, "store/local": 500,
}  # fmt: skip
RUN_PARTS = {"catalog": 400, "store": 1500, "tracker": 800, "loader": 500, "index": 250, "run": 90}
SLEEPY = {"claim_ttl_s": 0.15}
LISTED_AFTER_S = 40.0  # of the first look for a batch; less than a tracker looks for it


@dataclass(frozen=True)
class Case:
    """One case. `row` is the row of the table that it counts for."""

    group: str
    row: str
    name: str
    world: type[World]
    play: Callable[[Any], Figures]


SEEDS = int(os.environ.get("MISCHIEF_SEEDS", "100"))
GROUPS = ["points", "two", "world", "run", "prune"]
CASES: list[Case] = []


def cases(
    group: str, row: str, over: Iterable[Any] = ((),), world: type[World] = World
) -> Callable[[Callable[..., Figures]], Callable[..., Figures]]:
    """Makes a case of a function for each of `over`: its arguments after the world, and those of the row's name."""

    def register(function: Callable[..., Figures]) -> Callable[..., Figures]:
        for given in over:
            arguments = given if isinstance(given, tuple) else (given,)
            name = "-".join([function.__name__, *map(str, arguments)])
            CASES.append(Case(group, row.format(*arguments), name, world, lambda w, a=arguments: function(w, *a)))
        return function

    return register


def group(name: str) -> list[Case]:
    return [case for case in CASES if case.group == name]


# One tracker, killed at a point.


@cases("points", f"killed at each of {len(POINTS)} points of the write order", product(POINTS, (1, 2)))
def at_a_point(world: World, point: str, nth: int) -> Figures:
    assert world.die(point, nth)
    return world.check()


@cases("points", f"killed in the middle of {len(PARTS)} parts of the code", product(PARTS, range(3)))
def in_a_part(world: World, part: str, seed: int) -> Figures:
    assert world.die(f"call {part}", Random(f"{part}{seed}").randrange(1, PARTS[part]))
    return world.check()


@cases("points", "killed in the middle of a download", (0, 100, 900))
def in_a_download(world: World, at: int) -> Figures:
    """The first try brings `at` bytes; the tracker dies while it waits for more. The next goes on from there."""

    def kill(provider: Provider, request: Request) -> Reply:
        wait_until(lambda: world.processes)
        world.processes[0].kill()
        return provider.handle(request)

    world.provider.script("GET", "/files/.*/content", *[cut(at)] * bool(at), kill)
    assert world.end(world.start()) == -signal.SIGKILL
    figures = world.check()
    asked = world.provider.asked("GET", "/files/.*/content")
    assert [one.headers["range"] for one in asked if "range" in one.headers] == [f"bytes={at}-"] * 2 * bool(at)
    return figures


@cases("points", "killed at one point after another")
def at_all_points(world: World) -> Figures:
    for point in POINTS:
        world.die(point)
    return world.check()


# One tracker in a world that does not hold still.


@cases("world", "the store's answer to a `create` is lost", product(("plans", "claims", "batches", "outcomes"), (1, 2)))
def lost_answers(world: World, kind: str, nth: int) -> Figures:
    """The object is there. The tracker looks again or stops, and then dies there."""
    nth = 1 if kind == "plans" else nth
    assert world.end(world.start(Fault(f"created {kind}", nth, LOST_ANSWER))) in (0, 1)
    world.die(f"created {kind}", nth)
    return world.check()


def list_late(provider: Provider) -> None:
    """Batches are listed some time after the first look for them, and run some time longer."""
    new: list[tuple[Fate, float]] = []

    def fate_of(_batch: object, _lines: object) -> Fate:
        fate = Fate(takes_s=10 * LISTED_AFTER_S, unlisted_s=math.inf)
        new.append((fate, provider.time()))
        return fate

    def looked_for(_provider: Provider, request: Request) -> Script | None:
        while (request.method, request.path) == ("GET", "/batches") and new:
            fate, created = new.pop()
            fate.unlisted_s = provider.time() - created + LISTED_AFTER_S
            fate.takes_s += fate.unlisted_s
        return None

    provider.fate_of, provider.mischief = fate_of, looked_for


@cases("world", "the provider lists late", ("before-post", "before-reference"))
def late_listing(world: World, point: str) -> Figures:
    """Its batches still run when they are found: nobody may have deleted their files till then."""
    list_late(world.provider)
    for nth in (1, 2):
        world.die(point, nth)
    figures = world.check()
    assert {batch["status"] for batch in world.provider.batches.values()} == {"completed"}
    return figures


@cases("world", "the provider lists late, and its answer is lost")
def late_listing_and_lost_answers(world: World) -> Figures:
    list_late(world.provider)
    world.provider.script("POST", "/batches", accept_and_drop, accept_and_drop)
    world.die("before-reference")
    return world.check()


@cases("world", "the corpus shrinks between kills", range(4))
def shrinking_corpus(world: World, seed: int) -> Figures:
    chance = Random(seed)
    for count in (23, 14, 8):
        world.die_anywhere(chance, texts=TEXTS[:count])
    world.job = replace(world.job, texts=TEXTS[:8])
    return world.check()


@cases("world", "the template changes while batches are out", range(4))
def changing_template(world: World, seed: int) -> Figures:
    chance, others = Random(seed), tuple("title: " + text for text in TEXTS)
    for texts in (TEXTS, others):
        world.die_anywhere(chance, texts=texts)
    world.job = replace(world.job, texts=others)
    return world.check()


EDITS: dict[str, Any] = {
    "max_inputs": 4, "inputs_per_request": 1, "max_attempts": 1, "budget_usd": 1.0, "max_enqueued_tokens": 20,
}  # fmt: skip


@cases(
    "world",
    "the configuration is edited while batches are out",
    product(EDITS, ("after-plan", "before-post", "before-outcome")),
)
def edited_configuration(world: World, key: str, point: str) -> Figures:
    edit = {key: EDITS[key]}
    world.provider.hold = True
    world.die(point, 1 if point == "after-plan" else 2, wait=False)
    world.provider.hold = False
    world.provider.finish()
    world.die(point, 1, **edit)
    return world.check(**edit)


@cases("world", "the cache is deleted between kills", range(4))
def deleted_cache(world: World, seed: int) -> Figures:
    chance = Random(seed)
    for _ in range(3):
        world.die_anywhere(chance)
        world.forget_cache()
    return world.check()


@cases("world", "killed while it settles a doubt", DOUBT_POINTS)
def fenced(world: World, point: str) -> Figures:
    world.die("before-post")
    assert world.die(point)
    return world.check()


@cases("world", "killed while shards are retired, too large for the provider")
def retired(world: World) -> Figures:
    """They were planned before the limit was known."""
    world.job = replace(world.job, texts=tuple(texts_of(40)))
    world.provider.max_enqueued_tokens = 6
    world.die("after-plan")
    assert world.die("after-close", max_enqueued_tokens=12)
    return world.check(max_enqueued_tokens=12)


@cases("world", "a POST arrives when its maker is long dead", ("GET /batches", "DELETE /files/.*"))
def late_post(world: World, when: str) -> Figures:
    """It is on its way while the maker is killed, arrives at the last look or right before the fence, and the provider
    lists its batch late."""
    held: list[Request] = []

    def hold(provider: Provider, request: Request) -> None:
        held.append(request)
        world.processes[0].kill()

    def arrive(provider: Provider, request: Request) -> Reply:
        provider.handle(held[0])
        return provider.handle(request)

    world.provider.fate_of = lambda _batch, _lines: Fate(unlisted_s=LISTED_AFTER_S)
    world.provider.script("POST", "/batches", hold)
    world.end(world.start())
    world.provider.script(*when.split(), arrive)
    return world.check()


@cases("world", "all claims and batch references are lost", (False, True))
def lost_claims(world: World, kill: bool) -> Figures:
    """While batches are out. They are found by their metadata."""
    world.provider.hold = True
    world.end(world.start(wait=False))
    shutil.rmtree(world.job.store / "claims")
    shutil.rmtree(world.job.store / "batches")
    world.provider.hold = False
    world.provider.finish()
    assert not kill or world.die("after-recovered-claim", 2)
    return world.check()


# Two trackers on one store.


@cases("two", "two at once, killed anywhere", range(12))
def two_at_once(world: World, seed: int) -> Figures:
    """One or both are killed, on one machine or two, and others take over."""
    chance = Random(seed)
    for _ in range(2):
        hosts = ["", chance.choice(["", "elsewhere"])]
        faults = [Fault("call ", chance.randrange(1, CALLS)) if chance.random() < 0.7 else None for _ in hosts]
        started = [
            world.start(fault, cache=world.other_cache(), host=host, **SLEEPY) for host, fault in zip(hosts, faults)
        ]
        for process in started:
            world.end(process)
    return world.check(**SLEEPY)


@cases("two", "two plan at the same moment")
def two_plans(world: World) -> Figures:
    """Both have computed what is missing before either commits."""
    pair = [world.sleep("creating plans", cache=world.other_cache()) for _ in range(2)]
    assert world.wake(*pair) == [0, 0]
    return world.check()


@cases("two", "one sleeps past its claim's time anywhere, then wakes", POINTS)
def sleeper(world: World, point: str) -> Figures:
    """Another takes over meanwhile. Right before its POST, the sleeper makes a batch that fails unbilled."""
    asleep = world.sleep(point, cache=world.other_cache(), **SLEEPY)
    time.sleep(0.2)
    world.finish(**SLEEPY)
    assert world.wake(asleep) == [0]
    figures = world.check(**SLEEPY)
    assert figures.unbilled == (point == "before-post")
    return figures


@cases("two", "both see the last dollar of the budget", (1, 2))
def last_dollar(world: World, last: int) -> Figures:
    """Each finds that one more batch fits into the budget, before either has claimed it."""
    budget = {"budget_usd": 0.0105 * last}
    first = world.sleep("before-claim", last, cache=world.other_cache(), **budget)
    second = world.sleep("before-claim", cache=world.other_cache(), **budget)
    assert world.wake(first, second) == [PARKED, PARKED]
    assert world.provider.books.tokens == 10 * last
    return world.check()


# Whole runs, from Parquet to the published index.


@cases("run", "whole run killed at each point", [*POINTS, *RUN_POINTS], RunWorld)
def run_at_a_point(world: RunWorld, point: str) -> Figures:
    world.write(range(23))
    assert world.die(point)
    return world.check()


@cases("run", "whole run killed in the middle of `{0}`", product(("catalog", "index"), range(3)), RunWorld)
def run_in_a_part(world: RunWorld, part: str, seed: int) -> Figures:
    world.write(range(23))
    assert world.die(f"call {part}", Random(f"{part}{seed}").randrange(1, RUN_PARTS[part]))
    return world.check()


@cases("run", "whole run killed anywhere, its corpus changed in between", range(6), RunWorld)
def run_anywhere(world: RunWorld, seed: int) -> Figures:
    chance = Random(seed)
    for numbers in (range(23), range(5, 30), range(20)):
        world.write(numbers)
        part = chance.choice(list(RUN_PARTS))
        world.die(f"call {part}", chance.randrange(1, RUN_PARTS[part]))
    return world.check()


@cases("run", "what is out is cancelled, and that killed", product(CANCEL_POINTS, (1, 2)), RunWorld)
def cancelled(world: RunWorld, point: str, nth: int) -> Figures:
    """One of the batches is in doubt. What was cancelled goes out again."""
    world.write(range(23))
    world.provider.hold = True
    assert world.die("before-reference", 3)
    assert world.cancel(Fault(point, nth)) == -signal.SIGKILL
    assert world.cancel() == 0
    world.provider.hold = False
    return world.check()


# Prune, killed, and while a run is at work. What is older than a minute may go.


def leave_behind(world: RunWorld) -> None:
    """Two publications, of which the older one is doomed, and an upload of a killed run. The corpus is the older one's
    again: the next run wants what the next prune is about to remove."""
    world.write(range(23))
    world.die("before-claim")
    world.finish()
    world.write(range(5, 30))
    world.finish()
    world.make_older()
    world.prune()
    world.make_older()
    world.provider.clock_s += 3600
    world.write(range(23))


@cases("prune", "prune killed in each of its visits", PRUNE_POINTS, RunWorld)
def prune_at_a_point(world: RunWorld, point: str) -> Figures:
    leave_behind(world)
    assert world.die_pruning(point)
    world.prune()
    return world.check()


@cases("prune", "prune killed while a run is at work", ("prune-marked", "prune-removing"), RunWorld)
def prune_beside_a_run(world: RunWorld, point: str) -> Figures:
    """The run sleeps at its beginning, and finds at its end that some of what it wanted is gone."""
    leave_behind(world)
    asleep = world.sleep("before-plan")
    assert world.die_pruning(point)
    assert world.wake(asleep) == [0]
    world.prune()
    return world.check()


@cases(
    "prune",
    "prune while a run is at work",
    ["before-plan", "after-index", "before-snapshot", "before-publication"],
    RunWorld,
)
def run_beside_a_prune(world: RunWorld, point: str) -> Figures:
    leave_behind(world)
    asleep = world.sleep(point)
    world.prune()
    assert world.wake(asleep) == [0]
    return world.check()


# Everything together.


def at_random(world: World, seed: int) -> Figures:
    """One to three kills of one tracker, now and then with another cache. Every other seed also has the provider
    misbehave: a day there passes in a third of a second here."""
    chance = Random(seed)
    if seed % 2:
        world.hurry()
        Mischief(seed, rate=chance.choice([0.05, 0.15, 0.4])).attach(world.provider)
    for _ in range(chance.randint(1, 3)):
        world.die_anywhere(chance, cache=world.other_cache() if chance.random() < 0.3 else world.job.cache)
    return world.check()


def random_cases(seeds: int = SEEDS) -> list[Case]:
    rows = ("killed anywhere", "killed anywhere, at a provider that misbehaves")
    return [Case("random", rows[seed % 2], str(seed), World, partial(at_random, seed=seed)) for seed in range(seeds)]


def all_cases(seeds: int) -> list[Case]:
    """In the order of the table's rows."""
    return [*sorted(CASES, key=lambda case: GROUPS.index(case.group)), *random_cases(seeds)]
