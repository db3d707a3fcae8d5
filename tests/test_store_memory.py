"""The store in memory keeps the contract."""

import pytest

from embedfill.store.memory import MemoryStore
from tests.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_repr_does_not_show_what_is_held() -> None:
    store = MemoryStore()
    store.create("k", b"private")
    assert repr(store) == "MemoryStore(1 objects)"
