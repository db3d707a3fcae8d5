"""`embedfill probe`: TOML on stdout, a configuration with it on request, and no spending unasked."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from embedfill.config import load
from tests.cli_fixtures import Cli
from tests.dialect_fixtures import KEY, Speaking
from tests.provider_fixtures import Provider, Reply, Request

CONFIG = """# My own words stay.
store = "store"

[corpus]
paths = ["x.parquet"]

[embedding]
provider = "generic"
model = "tiny"                  # ours
base_url = "URL"
api_key_env = "DIALECT_KEY"
encoding_format = "float"       # to be seen

[batch]
poll_s = 0.005
listing_delay_s = 0.1
"""


@pytest.fixture
def endpoint(speaking: Callable[..., Speaking]) -> Speaking:
    return speaking("generic")


@pytest.fixture
def path(endpoint: Speaking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DIALECT_KEY", KEY)
    file = tmp_path / "probe.toml"
    file.write_text(CONFIG.replace("URL", endpoint.url))
    return file


def priced(path: Path) -> str:
    return path.read_text().replace("[embedding]", "[embedding]\nprice_per_million = 1.0")


def test_stdout_is_toml_that_says_what_was_seen(cli: Cli, path: Path) -> None:
    ran = cli("probe", path)
    assert ran.code == 0, ran.err
    assert tomllib.loads(ran.out) == {
        "embedding": {"encoding_format": "base64", "send_dimensions": False, "dimensions": 8},
        "batch": {"inputs_per_request": 100, "listing_delay_s": 0.1},
    }
    lines = [line.split() for line in ran.out.splitlines()]
    assert (
        ["#", "base64", "yes"] in lines
        and ["#", "dimensions", "no"] in lines
        and ["#", "vector", "length", "8"] in lines
    )
    assert not (path.parent / "store").exists()


def test_json_is_one_object(cli: Cli, path: Path) -> None:
    path.write_text(priced(path))
    found = cli("probe", path, "--json", "--yes").json
    assert found["features"]["range"] is True and found["settings"]["batch"]["inputs_per_request"] == 100
    assert found["cost_usd"] > 0 and found["prompt_tokens"] > 100


def test_a_configuration_with_the_settings_is_written(cli: Cli, path: Path) -> None:
    written = path.with_name("written.toml")
    before = path.read_text()
    assert cli("probe", path, "--write", written).code == 0
    made = load(written)
    assert (made.embedding.encoding_format, made.embedding.dimensions) == ("base64", 8)
    assert made.batch.inputs_per_request == 100
    text = written.read_text()
    assert text.startswith("# My own words stay.") and "# ours" in text and "# to be seen" in text
    assert path.read_text() == before
    assert cli("probe", path, "--write", path).code == 0  # also in its place
    assert load(path) == made


@pytest.mark.parametrize("place", ["nowhere/x.toml", "."])
def test_where_it_cannot_be_written_nothing_is_sent(cli: Cli, endpoint: Speaking, path: Path, place: str) -> None:
    ran = cli("probe", path, "--write", path.parent / place, "--json")
    assert ran.code == 2 and str(path.parent) in ran.error["message"]
    assert not endpoint.requests


def test_a_configuration_that_cannot_be_edited_is_not_paid_for(cli: Cli, endpoint: Speaking, path: Path) -> None:
    dotted = path.read_text().partition("[batch]")[0].replace("[corpus]", "batch.poll_s = 0.005\n[corpus]")
    path.write_text(dotted)
    ran = cli("probe", path, "--write", path, "--json")
    assert ran.code == 2 and "by hand" in ran.error["hint"]
    assert not endpoint.requests and path.read_text() == dotted


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_was_found_is_shown_though_it_cannot_be_written_any_more(
    cli: Cli, endpoint: Speaking, path: Path, flags: tuple[str, ...]
) -> None:
    def spoil(provider: Provider, request: Request) -> Reply:
        path.write_text("embedding = 1")
        return provider.handle(request)

    endpoint.script("POST", "/batches", spoil)
    ran = cli("probe", path, "--write", path, *flags)
    assert ran.code == 2 and f"error: {path}" in ran.err
    if flags:
        assert ran.json["error"]["code"] == "usage" and ran.json["settings"]["batch"]["inputs_per_request"] == 100
    else:
        assert tomllib.loads(ran.out)["batch"]["inputs_per_request"] == 100


@pytest.mark.parametrize("host", ["192.0.2.1", "127.0.0.1"])
def test_nothing_paid_is_sent_without_a_yes(cli: Cli, path: Path, host: str) -> None:
    """There is no terminal here. A price that is named is paid on this machine, too."""
    path.write_text(priced(path).replace("127.0.0.1", host))
    ran = cli("probe", path, "--json")
    assert ran.code == 2 and "--yes" in ran.error["hint"]
    assert "at most" in ran.err and "$0.00" in ran.err
