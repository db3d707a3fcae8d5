"""The nouns: frozen, and their identities cover all that matters."""

import dataclasses
import inspect
from typing import Any

import pytest

from embedfill import records
from embedfill.records import ChunkSpec, Space

CLASSES = [kind for _, kind in inspect.getmembers(records, dataclasses.is_dataclass)]
SPEC = ChunkSpec("cl100k_base", 256, 32, "auto", "{text}", 8192)
SPACE = Space("m", 384, "local", "local")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_noun_is_frozen_and_slotted(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert "\n" not in kind.__name__


@pytest.mark.parametrize("one", [SPEC, SPACE], ids=["chunk spec", "space"])
def test_identity_changes_with_every_field_but_a_place(one: Any) -> None:
    for field in dataclasses.fields(one):
        if field.name == "tokenizer_file":  # where the store's other users do not have it
            assert dataclasses.replace(one, tokenizer_file="/x").id == one.id
            continue
        value = getattr(one, field.name)
        other = dataclasses.replace(one, **{field.name: value + (1 if isinstance(value, int) else "x")})
        assert other.id != one.id, field.name


def test_identity_is_of_the_values() -> None:
    assert dataclasses.replace(SPEC).id == SPEC.id
    assert dataclasses.replace(SPACE).id == SPACE.id


def test_identities_are_what_earlier_versions_wrote() -> None:
    """Stores outlive versions: if one of these changes, every text is chunked and paid for again."""
    assert SPEC.id == "24b4875559786b89700645126f5183ed"
    assert SPACE.id == "178344ef6f823800"
