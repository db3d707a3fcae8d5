"""Progress: a bar on a terminal, a line for each long stage elsewhere, and never anything on stdout."""

import io
import sys
from types import SimpleNamespace

import pytest

from embedfill.cli import progress
from embedfill.cli.progress import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stage(console: Console, steps: int = 3) -> None:
    with console.stage("embed", 30, "texts") as shown:
        for _ in range(steps):
            shown.advance(10)


def test_a_short_stage_leaves_no_trace_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    stage(Console())
    assert capsys.readouterr() == ("", "")


def test_a_long_stage_is_one_line_with_its_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=iter([100.0, 104.0]).__next__))
    stage(Console())
    assert capsys.readouterr() == ("", "embed: 30 texts in 4.0 s, 8 a second\n")


def test_a_long_stage_without_steps_has_no_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=iter([100.0, 104.0]).__next__))
    stage(Console(), steps=0)
    assert capsys.readouterr().err == "embed: 0 texts in 4.0 s\n"


def test_a_terminal_gets_a_bar_with_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_SHOW_AFTER_S", 0.0)
    with Console().stage("embed", 30, "texts") as shown:
        shown.advance(10)
        shown.advance(20)
    assert "embed" in terminal.getvalue() and "texts" in terminal.getvalue()


def test_an_error_in_a_stage_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Console().stage("embed", None, "texts"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_a_note_is_a_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Console().note("the provider said \x1b[2J\x07 wait")
    assert capsys.readouterr() == ("", "the provider said  [2J  wait\n")
