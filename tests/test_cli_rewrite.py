"""A configuration that is written again: whether it will go is known beforehand, and only what was meant changes."""

import os
from pathlib import Path

import pytest

from embedfill.cli.rewrite import Rewrite
from embedfill.errors import UsageError
from tests.cli_fixtures import everything_below

SETTINGS = {"embedding": {"dimensions": 3}}
TEXT = b'\xef\xbb\xbfstore = "s"\r\n[embedding]\r\nmodel = "m"  # it\'s\r\n'
MADE = b'\xef\xbb\xbfstore = "s"\r\n[embedding]\r\ndimensions = 3\r\nmodel = "m"  # it\'s\r\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_bytes(TEXT)
    path.chmod(0o600)
    return path


def test_bytes_and_mode_stay(config: Path) -> None:
    for path in (config, config.with_name("new.toml")):
        Rewrite(config, path).check(SETTINGS)
        assert not path.exists() or path.read_bytes() == TEXT
        Rewrite(config, path).write(SETTINGS)
        assert path.read_bytes() == MADE and path.stat().st_mode & 0o777 == 0o600
    assert everything_below(config.parent) == ["new.toml", "own.toml"]


def test_a_link_stays_a_link(config: Path) -> None:
    link = config.with_name("link.toml")
    link.symlink_to(config.name)
    Rewrite(link, link).check(SETTINGS)
    Rewrite(link, link).write(SETTINGS)
    assert link.is_symlink() and config.read_bytes() == MADE


def test_a_place_that_cannot_be_written_is_told_beforehand(config: Path) -> None:
    folder = config.parent
    (folder / "loop").symlink_to("loop")
    (folder / "table").write_bytes(b"PAR1\xff")
    os.mkfifo(folder / "pipe")
    before = everything_below(folder)
    for name in ("nowhere/x.toml", ".", "own.toml/x", "loop", "table", "pipe", "x" * 300):
        with pytest.raises(UsageError, match=name[:9]):
            Rewrite(config, folder / name if name != "." else Path()).check(SETTINGS)
    assert everything_below(folder) == before


def test_what_goes_wrong_in_writing_leaves_all_as_it_was(config: Path) -> None:
    target = config.with_name("folder")
    target.mkdir()
    with pytest.raises(UsageError, match="folder"):
        Rewrite(config, target).write(SETTINGS)
    assert everything_below(config.parent) == ["folder", "own.toml"]


@pytest.mark.parametrize("text", [b"embedding = {}\n", b'x = "\xff"\n'])
def test_a_configuration_that_cannot_be_edited_is_named(config: Path, text: bytes) -> None:
    config.write_bytes(text)
    with pytest.raises(UsageError, match=r"own\.toml"):
        Rewrite(config, config).check(SETTINGS)
    config.unlink()
    with pytest.raises(UsageError, match=r"own\.toml"):
        Rewrite(config, config).write(SETTINGS)
