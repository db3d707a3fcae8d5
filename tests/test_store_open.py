"""Stores are opened by URL, tried out before they are shared, and know which store they are."""

import builtins
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfill.errors import ConfigError, StoreError, UsageError
from embedfill.store import layout
from embedfill.store.base import Store
from embedfill.store.cloud import CloudStore
from embedfill.store.local import LocalStore
from embedfill.store.memory import MemoryStore
from embedfill.store.open import identity, open_store, probe
from tests.s3_fixtures import S3


class CarelessStore(MemoryStore):
    """A service that ignores preconditions: the last writer wins, and every writer is told that it did."""

    def create(self, key: str, data: bytes) -> bool:
        self._objects[key] = (data, 0.0)
        return True


class ForgetfulStore(MemoryStore):
    """A service that says no, and overwrites all the same."""

    def create(self, key: str, data: bytes) -> bool:
        won = super().create(key, data)
        self._objects[key] = (data, 0.0)
        return won


def test_opens_directories(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s"))
    assert isinstance(store, LocalStore)
    assert store.url == str(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_opens_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize("url", ["s3://bucket/a/prefix", "s3://bucket", "gs://bucket/prefix/"])
def test_opens_buckets(url: str, s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    store = open_store(url)
    assert isinstance(store, CloudStore)
    assert store.url == url.rstrip("/")


def test_gcs_is_another_name_of_gs() -> None:
    assert open_store("gcs://bucket/x").url == "gs://bucket/x"


def test_opens_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert isinstance(open_store("az://container/x"), CloudStore)
    assert isinstance(open_store("abfs://container@account.dfs.core.windows.net/x"), CloudStore)


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///tmp/x", "S3://bucket", "://x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://") as raised:
        open_store(url)
    assert raised.value.key == "store"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:secret@bucket/x",
        "s3://AKIA@bucket/x",
        "s3://bucket/x?X-Amz-Signature=secret",
        "az://container/x?sig=secret",
        "abfs://user:secret@container/x",
        "s3://",
        "s3:///secret",
        "s3://bucket/../secret",
        "s3://[secret",
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(url)
    assert "secret" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_obstore(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ModuleNotFoundError("No module named 'obstore'", name="obstore")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.delitem(sys.modules, "embedfill.store.cloud")
    monkeypatch.setattr(builtins, "__import__", without_obstore)
    with pytest.raises(UsageError) as raised:
        open_store("s3://bucket/x")
    assert raised.value.hint == 'pip install "embedfill[s3]"'


@pytest.mark.parametrize("kind", [CarelessStore, ForgetfulStore])
def test_a_store_that_ignores_preconditions_is_refused(kind: type[MemoryStore]) -> None:
    with pytest.raises(StoreError, match="does not honour create-if-absent"):
        probe(kind())


def test_the_probe_leaves_nothing_behind(tmp_path: Path, s3_server: S3) -> None:
    for store in (MemoryStore(), LocalStore(tmp_path), CloudStore(s3_server.url)):
        probe(store)
        assert list(store.list("")) == []


def test_a_store_keeps_its_identity(tmp_path: Path) -> None:
    first = identity(LocalStore(tmp_path / "a"))
    assert len(bytes.fromhex(first)) == 16
    assert identity(LocalStore(tmp_path / "a")) == first
    assert identity(LocalStore(tmp_path / "b")) != first


def test_racing_creators_agree_on_one_identity(tmp_path: Path, s3_server: S3) -> None:
    stores: list[Store] = [MemoryStore(), LocalStore(tmp_path), CloudStore(s3_server.url)]
    for store in stores:
        with ThreadPoolExecutor(16) as pool:
            assert len(set(pool.map(identity, [store] * 16))) == 1


def test_a_store_of_a_newer_format_is_refused() -> None:
    store = MemoryStore()
    store.create(layout.STORE, orjson.dumps({"id": "0" * 32, "format": layout.FORMAT + 1}))
    with pytest.raises(StoreError, match=f"format {layout.FORMAT + 1}") as raised:
        identity(store)
    assert "upgrade" in raised.value.hint


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"{}", b'{"id":"x"}', b'{"id":"x","format":"new"}', b"3"])
def test_a_damaged_record_is_named(record: bytes) -> None:
    store = MemoryStore()
    store.create(layout.STORE, record)
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        identity(store)
