"""Which columns are read follows from the configuration and the template."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from embedfill.config import Config
from embedfill.corpus.spec import CorpusSpec, spec_of
from embedfill.errors import ConfigError


def config_of(**corpus: Any) -> Config:
    return Config(store="s", corpus={"paths": ["x"], **corpus}, base=Path("/"))


def test_takes_the_columns_of_the_configuration() -> None:
    spec = spec_of(config_of(id="key", text=["head", "body"], metadata=["url", "head", "url"]), ["url", "body", "key"])
    assert spec == CorpusSpec("key", ("head", "body"), ("url", "head"), ("body", "key", "url"))
    assert spec.columns == ["key", "head", "body", "url"]


@pytest.mark.parametrize("names", [[], ["text"], ["body"], ["body", "text"]])
def test_the_text_under_either_name_is_no_field(names: list[str]) -> None:
    assert spec_of(config_of(text="body"), names).fields == ()


def test_text_is_the_document_even_beside_a_metadata_column_of_that_name() -> None:
    assert spec_of(config_of(text="body", metadata=["text"]), ["text"]).fields == ()


def test_an_unknown_name_in_the_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="titel") as raised:
        spec_of(config_of(metadata=["title"]), ["title", "titel"])
    assert raised.value.key == "embedding.template"


def test_the_id_changes_with_all_that_decides_what_is_read() -> None:
    specs = [
        CorpusSpec("id", ("text",)),
        CorpusSpec("key", ("text",)),
        CorpusSpec("id", ("a", "b")),
        CorpusSpec("id", ("b", "a")),
        CorpusSpec("id", ("text",), ("url",)),
        CorpusSpec("id", ("text",), (), ("url",)),
        CorpusSpec("id", ("text",), version=2),
    ]
    assert len({spec.id for spec in specs}) == len(specs)
    assert all(pickle.loads(pickle.dumps(spec)) == spec for spec in specs)
    assert CorpusSpec("id", ("text",)).id == specs[0].id
