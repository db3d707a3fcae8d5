"""A clean, repeatable environment for every test. Holds no helpers: those live in tests/*_fixtures.py.

Each module `tests/<name>_fixtures.py` is loaded as a plugin, so its fixtures are known everywhere.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [f"tests.{path.stem}" for path in sorted(Path(__file__).parent.glob("*_fixtures.py"))]
pytest.register_assert_rewrite(*pytest_plugins)  # all at once: they import each other, in any order

settings.register_profile(
    "embedfill",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("embedfill")

_PREFIXES = ("EMBEDFILL_", "OPENAI_", "AWS_", "GOOGLE_", "AZURE_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def pytest_configure() -> None:
    """Takes the user's own keys and proxies away, once, before any fixture starts a server that inherits them."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.upper() in _PROXIES:
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # cloud clients would ask a link-local address for credentials


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test gets a cache of its own: none reads what another, or the user, left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
