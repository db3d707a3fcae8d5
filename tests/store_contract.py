"""What every store must do. Each implementation's test file subclasses this and gives the `store` fixture."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedfill.errors import MissingError
from embedfill.store.base import Store

# In key order: the bytes of whole keys, `/` being one of them, so that `a-b` comes before `a/b`.
KEYS = ["a-b", "a.b", "a/b", "a/b-c/d", "a/b.c", "a/bc", "a0", "ab/1", "b"]
BAD_KEYS = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    "a/../b",
    ".",
    "..",
    "./a",
    "a/.tmp-1",
    "a b",
    "a\\b",
    "a\0",
    "ä",
    "日本",
    "a?b",
    "%41",
]


class StoreContract:
    threads = 16

    def test_creates_and_reads(self, store: Store) -> None:
        assert store.create("plans/x/1.json", b"one")
        assert store.read("plans/x/1.json") == b"one"

    def test_creates_an_empty_object(self, store: Store) -> None:
        assert store.create("empty", b"")
        assert store.read("empty") == b""
        assert [entry.size for entry in store.list("empty")] == [0]

    def test_create_never_overwrites(self, store: Store) -> None:
        assert store.create("k", b"first")
        assert not store.create("k", b"second")
        assert store.read("k") == b"first"

    def test_create_with_equal_bytes_is_ours(self, store: Store) -> None:
        assert store.create("k", b"same")
        assert store.create("k", b"same")

    def test_one_of_many_creators_wins(self, store: Store) -> None:
        for round_ in range(3):
            key, start = f"claims/{round_}", threading.Barrier(self.threads)

            def attempt(number: int, key: str = key, start: threading.Barrier = start) -> bool:
                start.wait()
                return store.create(key, b"writer %d" % number)

            with ThreadPoolExecutor(self.threads) as pool:
                won = list(pool.map(attempt, range(self.threads)))
            assert won.count(True) == 1
            assert store.read(key) == b"writer %d" % won.index(True)

    def test_all_creators_of_equal_bytes_win(self, store: Store) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            assert all(pool.map(lambda _: store.create("k", b"same"), range(self.threads)))

    @pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 99])
    @pytest.mark.parametrize("stop", [None, 0, 1, 9, 10, 11, 99])
    def test_reads_ranges_as_slices(self, store: Store, start: int, stop: int | None) -> None:
        store.create("k", b"0123456789")
        assert store.read("k", start, stop) == b"0123456789"[start:stop]

    def test_a_missing_object_is_named(self, store: Store, tmp_path: Path) -> None:
        store.create("folder/k", b"")
        for key in ("absent", "folder", "folder/absent", "folder/k/below"):
            with pytest.raises(MissingError) as raised:
                store.read(key)
            assert raised.value.key == key
            with pytest.raises(MissingError):
                store.read(key, 2, 4)
            with pytest.raises(MissingError):
                store.read(key, 2, 2)
            with pytest.raises(MissingError):
                store.fetch(key, tmp_path / "copy")

    def test_lists_in_key_order(self, store: Store) -> None:
        for number, key in enumerate(reversed(KEYS)):
            store.create(key, b"x" * number)
        entries = list(store.list(""))
        assert [entry.key for entry in entries] == KEYS
        assert [entry.size for entry in entries] == [8, 7, 6, 5, 4, 3, 2, 1, 0]

    @pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "a/b-", "a/b-c/", "b", "c", "c/", "a/b/c/d"])
    def test_lists_by_prefix_and_from_after_a_key(self, store: Store, prefix: str) -> None:
        for key in KEYS:
            store.create(key, b"")
        matching = [key for key in KEYS if key.startswith(prefix)]
        assert [entry.key for entry in store.list(prefix)] == matching
        for after in ["", *KEYS, "a/", "a/b-c/", "zz", "A"]:
            found = [entry.key for entry in store.list(prefix, after)]
            assert found == [key for key in matching if key > after], after

    def test_lists_many(self, store: Store) -> None:
        keys = [f"ids/{number:05d}" for number in range(1100)]
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda key: store.create(key, b"x"), keys))
        assert [entry.key for entry in store.list("ids/")] == keys
        assert [entry.key for entry in store.list("ids/", "ids/01090")] == keys[1091:]

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list("")) == []
        assert list(store.list("plans/x/")) == []

    def test_later_objects_are_not_older(self, store: Store) -> None:
        store.create("first", b"")
        store.create("second", b"")
        times = {entry.key: entry.modified for entry in store.list("")}
        assert times["first"] <= times["second"]

    @pytest.mark.parametrize("size", [0, 1, 5 << 20, 20 * 10**6])
    def test_puts_and_fetches_files(self, store: Store, tmp_path: Path, size: int) -> None:
        data = bytes(range(251)) * (size // 251 + 1)
        source, copy = tmp_path / "source", tmp_path / "copy"
        source.write_bytes(data[:size])
        store.put_file("packs/x", source)
        store.put_file("packs/x", source)
        store.fetch("packs/x", copy)
        assert copy.read_bytes() == data[:size]
        assert [(entry.key, entry.size) for entry in store.list("")] == [("packs/x", size)]
        assert store.read("packs/x", size // 2, size // 2 + 100) == data[size // 2 : min(size // 2 + 100, size)]

    def test_a_put_file_is_seen_by_create(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"bulk")
        store.put_file("k", tmp_path / "f")
        assert not store.create("k", b"other")
        assert store.create("k", b"bulk")

    def test_deletes_and_creates_again(self, store: Store) -> None:
        store.create("a/b", b"1")
        store.create("a/c", b"1")
        for _ in range(2):
            store.delete("a/b")
        store.delete("never/was")
        assert [entry.key for entry in store.list("")] == ["a/c"]
        assert store.create("a/b", b"2")

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refuses_keys_that_could_be_read_in_two_ways(self, store: Store, tmp_path: Path, key: str) -> None:
        (tmp_path / "f").write_bytes(b"")
        for call in (
            lambda: store.create(key, b""),
            lambda: store.put_file(key, tmp_path / "f"),
            lambda: store.read(key),
            lambda: store.fetch(key, tmp_path / "copy"),
            lambda: store.delete(key),
            lambda: store.local_path(key),
        ):
            with pytest.raises(ValueError, match="not a store key"):
                call()
        assert list(store.list("")) == []

    def test_says_where_its_objects_lie(self, store: Store) -> None:
        store.create("a/b", b"data")
        path = store.local_path("a/b")
        assert path is None or path.read_bytes() == b"data"


class SharedStoreContract(StoreContract):
    """What a store that several processes use must do besides."""

    def test_goes_to_another_process(self, store: Store) -> None:
        store.create("k", b"data")
        twin: Store = pickle.loads(pickle.dumps(store))
        assert twin.url == store.url
        assert twin.read("k") == b"data"
