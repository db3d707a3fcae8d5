"""Configuration: what is accepted, what is refused and in which words, and what the environment may change."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfill import config, cores
from embedfill.config import Config, parse_size
from embedfill.errors import ConfigError, UsageError

MINIMAL = 'store = "s"\n[corpus]\npaths = ["a.parquet"]\n'


def parse(
    raw: dict[str, Any] | None = None, environ: dict[str, str] | None = None, base: Path = Path("/base")
) -> Config:
    whole = {"store": "s", "corpus": {"paths": ["a.parquet"]}} | (raw or {})
    return config.parse(whole, base, "my.toml", environ or {})


def refusal(raw: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(raw, environ)
    return caught.value


def corpus(**changes: object) -> dict[str, Any]:
    return {"corpus": {"paths": ["a.parquet"], **changes}}


# What is accepted


def test_two_lines_are_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(MINIMAL)
    loaded = config.load(path, {})
    assert (loaded.embedding.provider, loaded.embedding.model) == ("local", "all-MiniLM-L6-v2")
    assert (loaded.corpus.id, loaded.corpus.text_columns, loaded.corpus.metadata) == ("id", ["text"], [])
    assert loaded.index.memory == 4_000_000_000
    assert loaded.chunking.overlap == 32


def test_every_key_of_the_readme_table_is_read() -> None:
    loaded = parse(
        {
            "store": "s3://bucket/prefix",
            "corpus": {"paths": ["d/*.parquet"], "id": "n", "text": ["title", "body"], "metadata": ["url"]},
            "chunking": {"max_tokens": 256, "overlap": 16, "format": "markdown"},
            "embedding": {"provider": "openai", "model": "text-embedding-3-small", "dimensions": 512},
            "batch": {"max_enqueued_tokens": 20_000_000, "budget_usd": 25, "poll_s": 30, "claim_ttl_s": 0.5},
            "index": {"metric": "cosine", "target_recall": 1, "memory": "500MB"},
            "engine": {"data": "e"},
            "executor": {"kind": "local", "workers": 2},
        }
    )
    assert loaded.corpus.text_columns == ["title", "body"]
    assert loaded.batch.budget_usd == 25.0
    assert loaded.index.memory == 500_000_000
    assert loaded.executor.count == 2


def test_one_path_need_not_be_a_list() -> None:
    assert parse({"corpus": {"paths": "a.parquet"}}).corpus.paths == ["a.parquet"]


def test_workers_default_to_the_cores_this_process_may_use() -> None:
    assert parse().executor.count == cores.available()


@pytest.mark.parametrize(("most", "overlap"), [(8, 2), (100, 25), (128, 32), (512, 32)])
def test_the_default_overlap_shrinks_with_small_chunks(most: int, overlap: int) -> None:
    assert parse({"chunking": {"max_tokens": most}}).chunking.overlap == overlap


def test_a_base_url_loses_its_last_slash() -> None:
    assert parse({"embedding": {"base_url": "http://127.0.0.1:1/v1/"}}).embedding.base_url == "http://127.0.0.1:1/v1"


# Paths


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.toml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    loaded = config.load(Path("sub/e.toml"), {})
    monkeypatch.chdir("/")
    assert loaded.store_url == str(tmp_path / "sub" / "s")
    assert loaded.path("../a") == tmp_path / "a"
    assert loaded.path("/abs") == Path("/abs")


def test_a_tilde_is_the_home_folder_and_an_unknown_user_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse({"store": "~/store"}).store_url == "/home/me/store"
    assert parse({"store": "~nobody-of-that-name/s"}).store_url == "/base/~nobody-of-that-name/s"


def test_a_store_url_stays_as_it_is() -> None:
    assert parse({"store": "s3://bucket/a/../b"}).store_url == "s3://bucket/a/../b"


# What is refused: key, value, what is allowed


@pytest.mark.parametrize(
    ("raw", "key", "value", "allowed"),
    [
        ({"chunking": {"overlapp": 5}}, "chunking.overlapp", 5, "did you mean overlap? known here: format, max_tokens"),
        ({"corpse": {"paths": ["x"]}}, "corpse", {"paths": ["x"]}, "did you mean corpus? known here: batch, cache"),
        ({"strore": "x"}, "strore", "x", "did you mean store?"),
        ({"base": "/x"}, "base", "/x", "no such key"),
        ({"store": ""}, "store", "", "at least 1 character"),
        ({"store": 5}, "store", 5, "string"),
        ({"chunking": 5}, "chunking", 5, "must be a table"),
        ({"corpus": {}}, "corpus.paths", None, "is required"),
        (corpus(paths=[]), "corpus.paths", [], "at least 1 item"),
        (corpus(paths=["a", 7]), "corpus.paths.1", 7, "string"),
        (corpus(paths=["a", ""]), "corpus.paths.1", "", "at least 1 character"),
        (corpus(text=[]), "corpus.text", [], "a column name, or a list of them"),
        (corpus(text=""), "corpus.text", "", "a column name, or a list of them"),
        (corpus(text=["a", 5]), "corpus.text", ["a", 5], "a column name, or a list of them"),
        (corpus(metadata="title"), "corpus.metadata", "title", "list"),
        ({"chunking": {"max_tokens": 7}}, "chunking.max_tokens", 7, "greater than or equal to 8"),
        ({"chunking": {"max_tokens": "256"}}, "chunking.max_tokens", "256", "integer"),
        ({"chunking": {"max_tokens": 100, "overlap": 51}}, "chunking.overlap", 51, "at most half of max_tokens, 50"),
        ({"chunking": {"format": "html"}}, "chunking.format", "html", "'auto', 'text', 'markdown' or 'code'"),
        ({"embedding": {"provider": "cohere"}}, "embedding.provider", "cohere", "'azure' or 'generic'"),
        ({"embedding": {"base_url": "localhost:80"}}, "embedding.base_url", "localhost:80", "http:// or https://"),
        ({"embedding": {"base_url": "http://a b"}}, "embedding.base_url", "http://a b", "http:// or https://"),
        ({"embedding": {"dimensions": 0}}, "embedding.dimensions", 0, "greater than or equal to 1"),
        ({"batch": {"poll_s": True}}, "batch.poll_s", True, "number"),
        ({"batch": {"poll_s": 0}}, "batch.poll_s", 0, "greater than 0"),
        ({"batch": {"claim_ttl_s": float("inf")}}, "batch.claim_ttl_s", float("inf"), "finite"),
        ({"batch": {"inputs_per_request": 2049}}, "batch.inputs_per_request", 2049, "less than or equal to 2048"),
        ({"index": {"metric": "dot"}}, "index.metric", "dot", "'cosine'"),
        ({"index": {"target_recall": 1.1}}, "index.target_recall", 1.1, "less than or equal to 1"),
        ({"index": {"memory": "4 XB"}}, "index.memory", "4 XB", "such as 500MB or 4GB"),
        ({"index": {"memory": 0}}, "index.memory", 0, "greater than or equal to 1"),
        ({"executor": {"kind": "slurm"}}, "executor.kind", "slurm", "'local'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    raw: dict[str, Any], key: str, value: object, allowed: str
) -> None:
    error = refusal(raw)
    assert (error.key, error.value) == (key, value)
    assert allowed in error.allowed
    assert all(part in str(error) for part in (key, "" if value is None else repr(value), allowed, "my.toml"))


def test_a_missing_store_is_named() -> None:
    with pytest.raises(ConfigError, match=r"store in my\.toml is required"):
        config.parse({"corpus": {"paths": "a"}}, Path(), "my.toml", {})


def test_a_misspelt_key_is_told_before_the_one_it_leaves_missing() -> None:
    with pytest.raises(ConfigError, match=r"corpos .* did you mean corpus"):
        config.parse({"store": "s", "corpos": {"paths": "a"}}, Path(), "my.toml", {})


@pytest.mark.parametrize("name", ["api_key", "key", "secret", "client_secret", "password"])
def test_a_secret_in_the_wrong_place_is_not_repeated(name: str) -> None:
    assert "sk-123" not in str(refusal({"embedding": {name: "sk-123"}}))


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"store = \nx = 1", "line 1"), (b"store = 's'\nstore = 't'", "overwrite"), (b"\xff\xfe", "utf-8")],
)
def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "e.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        config.load(path, {})
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_no_such_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such configuration file") as caught:
        config.load(tmp_path / "e.toml", {})
    assert "embedfill init" in caught.value.hint
    with pytest.raises(UsageError, match="directory"):
        config.load(tmp_path, {})


# The environment


def test_the_environment_stands_over_the_file() -> None:
    environ = {
        "EMBEDFILL_STORE": "/elsewhere",
        "EMBEDFILL_CORPUS__PATHS": '["a", "b"]',
        "EMBEDFILL_BATCH__BUDGET_USD": "2.5",
        "EMBEDFILL_EMBEDDING__MODEL": "wordllama-256",
        "EMBEDFILL_INDEX__MEMORY": "1GB",
        "EMBEDFILL_EXECUTOR__WORKERS": "3",
        "PATH": "/bin",
    }
    loaded = parse({"batch": {"budget_usd": 100.0, "max_attempts": 7}}, environ)
    assert loaded.store_url == "/elsewhere"
    assert loaded.corpus.paths == ["a", "b"]
    assert (loaded.batch.budget_usd, loaded.batch.max_attempts) == (2.5, 7)
    assert (loaded.embedding.model, loaded.index.memory, loaded.executor.workers) == ("wordllama-256", 10**9, 3)


def test_the_environment_can_stand_for_the_required_keys() -> None:
    environ = {"EMBEDFILL_STORE": "s", "EMBEDFILL_CORPUS__PATHS": "a.parquet"}
    assert config.parse({}, Path(), "", environ).corpus.paths == ["a.parquet"]


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFILL_BATCH__MAX_ATTEMPTS", "9")
    loaded = config.parse({"store": "s", "corpus": {"paths": "a"}}, Path())
    assert loaded.batch.max_attempts == 9


def test_the_values_given_are_not_changed() -> None:
    raw = {"store": "s", "corpus": {"paths": ["a"]}}
    config.parse(raw, Path(), "", {"EMBEDFILL_CORPUS__ID": "n", "EMBEDFILL_STORE": "t"})
    assert raw == {"store": "s", "corpus": {"paths": ["a"]}}


@pytest.mark.parametrize(
    "name", ["EMBEDFILL_STOER", "EMBEDFILL_BTACH__POLL_S", "EMBEDFILL_STORE__X", "EMBEDFILL_BASE__X"]
)
def test_an_unknown_variable_is_refused(name: str) -> None:
    error = refusal(environ={name: "1"})
    assert name in str(error)
    assert "EMBEDFILL_<TABLE>__<KEY>" in str(error)


def test_a_wrong_value_of_the_environment_is_not_blamed_on_the_file() -> None:
    error = refusal({"batch": {"poll_s": 3}}, {"EMBEDFILL_BATCH__POLL_S": "-1"})
    assert error.key == "batch.poll_s"
    assert "EMBEDFILL_BATCH__POLL_S" in str(error)
    assert "my.toml" not in str(error)


def test_a_table_that_is_none_cannot_be_overridden() -> None:
    assert "a table" in str(refusal({"batch": 5}, {"EMBEDFILL_BATCH__POLL_S": "1"}))


# Small parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("500mb", 5 * 10**8),
        (" 1.5 k ", 1500),
        ("12", 12),
        ("7B", 7),
        ("4GiB", 2**32),
        ("1ki", 1024),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@given(st.text(alphabet="0123456789kmgtibKMGTIB. -", max_size=8))
def test_a_size_is_read_or_refused_never_guessed(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    digits = text.strip().rstrip("kmgtibKMGTIB ")
    assert size >= int(float(digits))


@pytest.mark.parametrize("text", ["", "GB", "4 GB 5", "4iB", "-4GB", "1e9", "4.GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="500MB"):
        parse_size(text)


def test_a_secret_hides_itself() -> None:
    key = config.secret("MY_KEY", {"MY_KEY": " sk-123\n"})
    assert key is not None
    assert key.get_secret_value() == "sk-123"
    assert "sk-123" not in repr(key) + str(key)
    assert config.secret("MY_KEY", {}) is None
    assert config.secret("MY_KEY", {"MY_KEY": " "}) is None


@pytest.mark.parametrize("name", ["EMBEDFILL_OPENAI_API_KEY", "EMBEDFILL_EMBEDDING_API_KEY", "EMBEDFILL_API_KEY"])
def test_a_key_in_a_misspelt_variable_is_not_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name) as raised:
        config.parse({"store": "s", "corpus": {"paths": ["x"]}}, tmp_path, environ={name: "sk-topsecret"})
    assert "topsecret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["https://u:sk-REAL@host/v1?api-version=1", "https://host/v1#REAL", "https://u:REAL@host:x/v1"]
)
def test_a_refused_url_shows_no_user_and_no_query(url: str) -> None:
    told = str(refusal({"embedding": {"provider": "generic", "base_url": url}}))
    assert "base_url" in told and "host" in told and "REAL" not in told and "api-version" not in told


@pytest.mark.parametrize("name", ["token", "auth", "authorization", "bearer", "pat"])
def test_a_key_by_any_name_is_not_repeated(tmp_path: Path, name: str) -> None:
    assert "hush" not in str(refusal({"embedding": {name: "hush"}}))
    with pytest.raises(ConfigError) as raised:
        config.parse(
            {"store": "s", "corpus": {"paths": ["x"]}}, tmp_path, environ={f"EMBEDFILL_{name.upper()}": "hush"}
        )
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("window", ["soon", "24", "0h", "1w", "24 h", ""])
def test_a_completion_window_is_a_time(window: str) -> None:
    assert "a time such as 24h or 7d" in str(refusal({"batch": {"completion_window": window}}))
    assert parse({"batch": {"completion_window": "7d"}}).batch.completion_window == "7d"
