"""Every example in configs/ and the template of `embedfill init` is a configuration that works."""

import re
import tomllib
from pathlib import Path

import pytest

from embedfill import config
from embedfill.batchapi.prices import batch_price
from embedfill.corpus.spec import spec_of
from embedfill.models import known
from embedfill.providers.connect import request_of
from embedfill.providers.profiles import PROFILES, profile_of, window_of

CONFIGS = Path(__file__).parent.parent / "configs"
ENGINE = CONFIGS / "engine.toml"  # of another kind: see test_engine_examples.py
EXAMPLES = sorted(set(CONFIGS.glob("*.toml")) - {ENGINE})
NAMES = re.compile(r"\{(\w+)\}")


def test_the_documented_examples_are_there() -> None:
    assert {path.stem for path in EXAMPLES} >= {"quickstart", "openai", "local-fast"}


def test_every_provider_has_an_example() -> None:
    assert {config.load(path, {}).embedding.provider for path in EXAMPLES} == set(PROFILES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_its_provider_takes(path: Path) -> None:
    loaded = config.load(path, {})
    profile, info = profile_of(loaded.embedding), known.resolve(loaded.embedding)
    assert window_of(profile, loaded.batch)
    assert request_of(loaded, info).line("a", ["x"])
    if loaded.batch.budget_usd is not None:
        assert batch_price(info.name, profile.name, loaded.embedding.price_per_million) is not None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_and_names_a_known_model(path: Path) -> None:
    loaded = config.load(path, {})
    info = known.resolve(loaded.embedding)
    assert info.name in known.KNOWN
    assert known.max_chunk_tokens(info, loaded.chunking.max_tokens) <= info.max_tokens


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_names_files_and_columns_that_exist(path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    loaded = config.load(path, {})
    spec = spec_of(loaded, NAMES.findall(loaded.embedding.template))
    for name in loaded.corpus.paths:
        assert set(spec.columns) <= set(pq.read_schema(loaded.path(name)).names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_commented_and_keeps_its_store_out_of_git(path: Path) -> None:
    assert path.read_text().startswith("# ")
    store = Path(config.load(path, {}).store_url)
    assert store.parent == CONFIGS.parent / "runs"
    assert "/runs/" in (CONFIGS.parent / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_settings_that_are_commented_out_exist(path: Path) -> None:
    table = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        match = re.match(r"# (\w+) = ([^#]*)", line)
        if match and table:
            fields = config.Config.model_fields[table].annotation.model_fields
            assert match[1] in fields
            tomllib.loads(f"v = {match[2]}")
