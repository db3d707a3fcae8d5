"""Removes what nothing refers to any more: objects of the store, in two visits, and our leftover files at the provider.

    sweep     what an earlier visit doomed, a grace ago, and still nothing refers to     removed
    doom      what nothing refers to now                                                listed in doomed/<n>
    uploads   our files at the provider that no claim and no batch names                deleted

Nothing that was paid for is removed, and runs may go on meanwhile (`tracker/sweeps.py` says why). Safe to interrupt and to
run again at any time.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field

from embedfill import ids
from embedfill.account import account_of
from embedfill.clock import Clock
from embedfill.config import Config
from embedfill.errors import MissingError, UsageError
from embedfill.leftovers import Leftovers
from embedfill.progress import Progress, Quiet
from embedfill.project import Project, open_project
from embedfill.store import layout
from embedfill.store.base import Entry
from embedfill.store.cache import parse_json
from embedfill.tracker.state import store_time
from embedfill.tracker.submit import Account
from embedfill.tracker.sweeps import sweeping
from embedfill.tracker.uploads import Uploads

WEEK_S = 7 * 86_400.0
KEEP = 5
# Every named point, in the order in which a prune passes them.
POINTS = (
    "prune-before-sweep", "prune-marked", "prune-looked", "prune-removing", "prune-removed", "prune-before-doom",
    "prune-doomed", "prune-before-uploads", "prune-deleting-uploads",
)  # fmt: skip
_CHECK_EVERY = 64  # objects, between two looks at how long the sweep has taken


@dataclass(frozen=True, slots=True)
class Options:
    """How to prune. What is younger than `grace_s` stays, and so do the newest `keep` publications. `settled_files`:
    also the provider's files of batches that are settled. `uploads` False leaves the provider alone. `confirm` is shown
    what would be done; `at` is told each named point (crash tests kill there)."""

    dry_run: bool = False
    settled_files: bool = False
    uploads: bool = True
    grace_s: float = WEEK_S
    keep: int = KEEP
    progress: Progress = field(default_factory=Quiet)
    confirm: Callable[["Pruned"], bool] = lambda _: True
    at: Callable[[str], None] = lambda _: None
    clock: Clock = field(default_factory=Clock)


@dataclass(slots=True)
class Amount:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Pruned:
    """What was done, or with a dry run would be. `removed` and `doomed` count objects of the store by kind; `waiting`
    those that an earlier visit doomed and whose grace is not over. `uploads` are orphans at the provider,
    `settled_files` the files there of settled batches."""

    dry_run: bool = False
    removed: dict[str, Amount] = field(default_factory=dict)
    doomed: dict[str, Amount] = field(default_factory=dict)
    waiting: Amount = field(default_factory=Amount)
    uploads: Amount = field(default_factory=Amount)
    settled_files: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.removed or self.doomed or self.uploads.objects or self.settled_files)


def prune(config: Config, options: Options | None = None) -> Pruned:
    """Removes what is of no use any more. Raises UsageError where there is no store, or the answer is no."""
    project, options = open_project(config, read_only=True), options or Options()
    with project.client() if options.uploads else nullcontext() as client:
        account = account_of(project, client, options.at, options.clock) if client else None
        pruning = _Prune(project, options, account)
        expected = pruning.look()
        if options.dry_run:
            return expected
        if expected.anything and not options.confirm(expected):
            raise UsageError("nothing was removed", "see what would be with: embedfill prune CONFIG --dry-run")
        return pruning.run()


@dataclass(frozen=True, slots=True)
class _List:
    """What a visit doomed; mature once the grace is over."""

    number: int
    keys: frozenset[str]
    is_mature: bool


@dataclass(slots=True)
class _Prune:
    project: Project
    options: Options
    account: Account | None
    done: Pruned = field(default_factory=Pruned)

    def look(self) -> Pruned:
        """What there is to be done; changes nothing."""
        found = Pruned(dry_run=True)
        left, lists = self._leftovers(), self._lists()
        mature, listed = _keys(one for one in lists if one.is_mature), _keys(lists)
        for key, entry in left.items():
            if key in mature:
                _count(found.removed, entry)
            elif key in listed:
                found.waiting.add(entry.size)
            else:
                _count(found.doomed, entry)
        self._uploads(found, delete=False)
        return found

    def run(self) -> Pruned:
        self._sweep()
        self._doom()
        self.options.at("prune-before-uploads")
        self._uploads(self.done, delete=True)
        return self.done

    def _sweep(self) -> None:
        """The later visit. References are listed under the sweep's mark: whoever refers to something from then on looks
        for the mark first."""
        at, lists = self.options.at, [one for one in self._lists() if one.is_mature]
        if not lists:
            return
        at("prune-before-sweep")
        doomed = _keys(lists)
        with sweeping(self.project.store, [one.number for one in lists]) as may_go_on:
            at("prune-marked")
            left = self._leftovers()
            at("prune-looked")
            if self._remove([entry for key, entry in left.items() if key in doomed], may_go_on):
                at("prune-removed")
                for one in lists:
                    self.project.store.delete(layout.doomed(one.number))

    def _remove(self, entries: list[Entry], may_go_on: Callable[[], bool]) -> bool:
        """False where it took too long: the rest is for the next visit."""
        with self.options.progress.stage("remove", len(entries), "objects") as stage:
            for number, entry in enumerate(entries):
                if number % _CHECK_EVERY == 0 and not may_go_on():
                    return False
                self.project.store.delete(entry.key)
                _count(self.done.removed, entry)
                stage.advance(1)
                self.options.at("prune-removing")
        return True

    def _doom(self) -> None:
        """The first visit: lists what nothing refers to. Another prune may do so at the same moment."""
        while True:
            left, lists = self._leftovers(), self._lists()
            listed = _keys(lists)
            new = [entry for key, entry in left.items() if key not in listed]
            self.done.waiting = _total(entry for key, entry in left.items() if key in listed)
            self.options.at("prune-before-doom")
            if not new or self._create_list(max((one.number for one in lists), default=0) + 1, new):
                break
        for entry in new:
            _count(self.done.doomed, entry)
        self.options.at("prune-doomed")

    def _create_list(self, number: int, entries: list[Entry]) -> bool:
        data = ids.canonical({"keys": sorted(entry.key for entry in entries)})
        return self.project.store.create(layout.doomed(number), data)

    def _leftovers(self) -> dict[str, Entry]:
        return Leftovers(self.project.store, self.project.cache, self.options.grace_s, self.options.keep).find()

    def _lists(self) -> list[_List]:
        """What earlier visits doomed."""
        store, found = self.project.store, list[_List]()
        now = 0.0
        for entry in store.list(layout.DOOMED):
            now = now or store_time(store)
            try:
                keys = parse_json(entry.key, store.read(entry.key))["keys"]
                mature = now - entry.modified >= self.options.grace_s
            except MissingError:
                continue  # another prune has done with it
            found.append(_List(layout.number_of(entry.key), frozenset(keys), mature))
        return found

    def _uploads(self, found: Pruned, delete: bool) -> None:
        if self.account is None:
            return
        project, options = self.project, self.options
        states = Leftovers(project.store, project.cache, options.grace_s, options.keep).states()
        uploads = Uploads(self.account, states, options.progress.note)
        orphans = uploads.orphans(ask=delete)
        settled = uploads.settled() if options.settled_files else []
        if delete:
            self._delete(uploads, [*(file.id for file in orphans), *settled])
        found.uploads = Amount(len(orphans), sum(file.bytes for file in orphans))
        found.settled_files = len(settled)

    def _delete(self, uploads: Uploads, file_ids: Collection[str]) -> None:
        with self.options.progress.stage("delete uploads", len(file_ids), "files") as stage:
            for _ in uploads.delete(list(file_ids)):
                stage.advance(1)
                self.options.at("prune-deleting-uploads")


def _count(amounts: dict[str, Amount], entry: Entry) -> None:
    amounts.setdefault(layout.kind_of(entry.key), Amount()).add(entry.size)


def _keys(lists: Iterable[_List]) -> set[str]:
    return {key for one in lists for key in one.keys}


def _total(entries: Iterable[Entry]) -> Amount:
    total = Amount()
    for entry in entries:
        total.add(entry.size)
    return total
