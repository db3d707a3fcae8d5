"""A job's configuration: file, then flags, checked with the words of any other."""

from pathlib import Path
from typing import Any

import pytest

from embedfill.errors import ConfigError, UsageError
from embedfill.jobs.config import cache_root, load_job


def test_flags_lie_over_the_file_and_what_is_not_given_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[provider]\nprovider = "openai"\n[batch]\nbudget_usd = 1\n[cache]\ndir = "c"\n[prices]\nm = { input = 1 }\n'
    )
    flags: dict[str, dict[str, Any]] = {
        "provider": {"provider": None, "base_url": "http://x/v1"}, "batch": {"budget_usd": 2.0},
        "": {"assume_output_tokens": None},
    }  # fmt: skip
    config = load_job(path, flags)
    assert (config.provider.provider, config.provider.base_url) == ("openai", "http://x/v1")
    assert config.batch.budget_usd == 2.0 and config.batch.max_attempts == 1
    assert config.prices["m"].input == 1 and config.prices["m"].output == 0
    assert cache_root(config) == tmp_path / "c" and cache_root(load_job(None)) is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("[embedding]\n", r"^embedding.*known here: .*provider"),
        ("[provider]\nmodel = 'x'\n", r"^provider\.model.*known here: api_key_env"),
        ("[prices]\nm = { input = -1 }\n", r"^prices\.m\.input = -1"),
        ("batch = 3\n", r"^batch = 3"),
        ("base = 'x'\n", r"^base"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_job(tmp_path / "job.toml", {"batch": {"budget_usd": 1.0}})


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("=")
    with pytest.raises(UsageError, match=r"job\.toml"):
        load_job(tmp_path / "job.toml")
