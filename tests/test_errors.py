"""The error tree: its drawing and its exit codes are those of the classes."""

import inspect
import pickle
import re

import pytest

from embedfill import errors
from embedfill.errors import ConfigError, CorpusError, EmbedfillError, MissingError, RefusedError

CLASSES = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
}
DRAWN = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>\w+Error)\s+(?P<exit>\d)\s", re.MULTILINE)


def drawn() -> dict[str, tuple[str | None, int]]:
    """Parent and exit code of each class, as the docstring's tree has them."""
    found: dict[str, tuple[str | None, int]] = {}
    path: list[tuple[int, str]] = [(-1, "EmbedfillError")]
    for match in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(match["indent"])
        path = [entry for entry in path if entry[0] < depth]
        found[match["name"]] = (path[-1][1], int(match["exit"]))
        path.append((depth, match["name"]))
    return found


def test_the_drawing_has_every_class() -> None:
    assert {*drawn(), "EmbedfillError"} == set(CLASSES)


@pytest.mark.parametrize("name", sorted(drawn()))
def test_the_drawing_has_parent_and_exit_code(name: str) -> None:
    parent, exit_code = drawn()[name]
    assert CLASSES[name].__base__ is CLASSES[str(parent)]
    assert CLASSES[name].exit_code == exit_code


def test_exit_codes_are_the_documented_ones() -> None:
    documented = {
        int(code) for code in re.findall(r"(\d+) (?:done|error|usage|not|stopped|interrupted)", errors.__doc__ or "")
    }
    assert documented == {0, 1, 2, 3, 4, 5, 130}
    assert {kind.exit_code for kind in CLASSES.values()} <= documented - {0, 3, 130}


def test_codes_for_scripts_are_words_and_differ_between_kinds() -> None:
    own = [kind.code for kind in CLASSES.values() if "code" in vars(kind)]
    assert len(set(own)) == len(own)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in own)


def test_as_dict_is_the_contract() -> None:
    error = EmbedfillError("it broke", "mend it")
    assert error.as_dict() == {"error": {"code": "error", "message": "it broke", "hint": "mend it"}}
    assert str(error) == "it broke"


def test_config_error_names_key_value_and_what_is_allowed() -> None:
    message = str(ConfigError("batch.poll_s", -1, "more than 0", "my.toml"))
    assert all(part in message for part in ("batch.poll_s", "-1", "more than 0", "my.toml"))


def test_corpus_and_missing_errors_name_their_object() -> None:
    assert CorpusError("a.parquet", "is cut short").file == "a.parquet"
    assert "a.parquet" in str(CorpusError("a.parquet", "is cut short"))
    assert MissingError("packs/x").key == "packs/x"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (409, True), (429, True), (500, True)],
)
def test_a_refusal_says_whether_a_retry_helps(status: int, retryable: bool) -> None:
    assert RefusedError(status, "", "no").retryable is retryable
    assert RefusedError(status, "", "no").code == f"http_{status}"
    assert RefusedError(status, "rate_limit_exceeded", "no").code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    "error",
    [
        CorpusError("a.parquet", "is cut short", "fetch it again"),
        ConfigError("store", None, "is required", "x.toml"),
        MissingError("k"),
        RefusedError(429, "slow", "slow down", "wait"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_boundaries_whole(error: EmbedfillError) -> None:
    """Workers raise them in another process: what cannot be unpickled hangs or hides the cause."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.as_dict() == error.as_dict()
    assert vars(again) == vars(error)
