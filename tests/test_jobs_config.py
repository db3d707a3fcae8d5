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


def test_the_environment_lies_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[batch]\nbudget_usd = 1\nmax_inputs = 5\n")
    environ = {
        "EMBEDFILL_BATCH__BUDGET_USD": "2", "EMBEDFILL_PROVIDER__PROVIDER": "openai", "EMBEDFILL_BATCH__MAX_INPUTS": "6",
        "EMBEDFILL_ASSUME_OUTPUT_TOKENS": "7", "EMBEDFILL_PRICES": "{ 'm-1.5' = { input = 1 } }", "PATH": "/bin",
    }  # fmt: skip
    config = load_job(path, {"batch": {"max_inputs": 7}}, environ)
    assert (config.batch.budget_usd, config.batch.max_inputs, config.provider.provider) == (2, 7, "openai")
    assert config.assume_output_tokens == 7 and config.prices["m-1.5"].input == 1


@pytest.mark.parametrize(
    "name, words",
    [
        ("EMBEDFILL_EMBEDDING__BASE_URL", "^EMBEDFILL_EMBEDDING__BASE_URL = .*no such setting here .*provider"),
        ("EMBEDFILL_STORE", "^EMBEDFILL_STORE = "),
        ("EMBEDFILL_BATCH__NOTHING", r"^batch\.nothing = .*the environment"),
        ("EMBEDFILL_BATCH__ENDPOINT", r"^batch\.endpoint = .*the environment .*no setting of a job"),
    ],
)
def test_what_the_environment_says_in_vain_is_told(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_job(None, environ={name: "/x"})


def test_a_wrong_flag_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[batch]\nbudget_usd = 1\n")
    with pytest.raises(ConfigError, match=r"^--budget-usd = -1\.0: "):
        load_job(tmp_path / "job.toml", {"batch": {"budget_usd": -1.0}})


@pytest.mark.parametrize(
    "text, words",
    [
        ("[batch]\ninputs_per_request = 5\n", r"^batch\.inputs_per_request = 5 in .*no setting of a job"),
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
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        load_job(tmp_path / "none.toml")
