"""The store in a directory keeps the contract, also when it is killed, or has no room."""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedfill.errors import MissingError, StoreError
from embedfill.store.local import LocalStore
from tests.store_contract import SharedStoreContract


class TestLocalStore(SharedStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "a store")


# Writes objects that are named after what they hold, some by create and some by put_file, until it is killed.
_WRITER = """
import hashlib, os, sys
from pathlib import Path
from embedfill.store.local import LocalStore
store, scratch = LocalStore(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
for number in range(10**6):
    data = os.urandom(1000) * (200 if number % 2 else 3000)
    key = "objects/" + hashlib.sha256(data).hexdigest()
    if number % 2:
        store.create(key, data)
    else:
        scratch.write_bytes(data)
        store.put_file(key, scratch)
"""


def test_what_is_seen_after_kills_is_whole(tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(8):
        command = [sys.executable, "-c", _WRITER, str(tmp_path / "store"), str(tmp_path / "scratch")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.02, 0.15))
            writer.kill()
    store = LocalStore(tmp_path / "store")
    entries = list(store.list(""))
    assert len(entries) > 8
    for entry in entries:
        assert hashlib.sha256(store.read(entry.key)).hexdigest() == entry.key.removeprefix("objects/")


# A limit on file sizes stops a write in its middle, as a full disk does.
_LIMITED = """
import resource, sys
from pathlib import Path
from embedfill.errors import StoreError
from embedfill.store.local import LocalStore
big = Path(sys.argv[2])
big.write_bytes(b"x" * 5_000_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
store = LocalStore(Path(sys.argv[1]))
for write in (lambda: store.create("small", b"x" * 5_000_000), lambda: store.put_file("big", big)):
    try:
        write()
    except StoreError as error:
        print(error, "|", error.hint)
"""


def test_a_write_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "store"), str(tmp_path / "big")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("File too large" in line and "ulimit -f" in line for line in lines)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("k", b"x" * 100_000)
    with pytest.raises(StoreError, match="No space left on device") as raised:
        store.fetch("k", Path("/dev/full"))
    assert "free some space" in raised.value.hint


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StoreError, match=f"{tmp_path}/file"):
        store.create("k", b"")
    with pytest.raises(StoreError, match=f"{tmp_path}/file"):
        store.put_file("a/k", tmp_path / "file")


def test_a_key_below_another_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("a", b"1")
    with pytest.raises(StoreError):
        store.create("a/b", b"2")
    assert [entry.key for entry in store.list("")] == ["a"]


def test_temp_files_are_never_seen(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("a/b", b"1")
    (tmp_path / "a" / ".tmp-1-abc").write_bytes(b"half")
    assert [entry.key for entry in store.list("")] == ["a/b"]
    store.create("a/c", b"2")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".tmp-1-abc", "b", "c"]


def test_an_object_that_lies_there_is_not_written_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "f").write_bytes(b"bulk")
    store.put_file("k", tmp_path / "f")
    before = (tmp_path / "store" / "k").stat()
    store.put_file("k", tmp_path / "f")
    after = (tmp_path / "store" / "k").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_is_removed_after_it_was_listed_is_missing_when_it_is_asked_for_its_size(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for key in ("a", "b"):
        store.create(key, b"12")
    first, second = store.list("")
    store.delete("a")
    assert (first.key, second.key, second.size) == ("a", "b", 2)
    for ask in (lambda: first.size, lambda: first.modified):
        with pytest.raises(MissingError, match="a"):
            ask()
    assert [entry.key for entry in store.list("")] == ["b"]
