"""`embedfill`: the verbs, and the one place where errors become words, JSON and exit codes."""

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from embedfill import __version__
from embedfill.cli.common import say, show_json
from embedfill.errors import EmbedfillError

INTERRUPTED = 130
_NO_ROOM = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM})
_VERBS = {
    "init": "Write a commented configuration",
    "plan": "Say what `run` would send and cost",
    "run": "Embed what is missing through the Batch API, index it, measure the recall, publish",
    "status": "Tell what is published, what is in flight, what was spent, and what was rejected",
    "cancel": "Cancel what is in flight and collect what was done",
    "rejections": "List what was left out and why, export it, or forgive refusals",
    "search": "Search the published index",
    "eval": "Measure recall@10, MRR@10 and nDCG@10 of the published index",
    "probe": "Find out with one tiny batch what the configured endpoint can do, and print the settings that follow",
    "batch": "Run prepared requests of any endpoint through the Batch API; compare two results",
    "prune": "Remove what nothing refers to any more, in the store and at the provider",
    "engine": "Run a Batch API server",
}
_MODULES = {"eval": "evaluate"}


class Verbs(click.Group):
    """Imports a verb's module only when it is asked for: `embedfill --help` must not load FAISS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"embedfill.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="embedfill")
def cli() -> None:
    """Keep the vectors and the search index of a document store in step with its documents, through the Batch API.

    \b
    Start with:
      embedfill init                         write a commented configuration
      embedfill plan embedfill.toml          say what a run would send and cost
      embedfill run embedfill.toml           embed what is missing, index, publish
      embedfill search embedfill.toml "…"    search what is published

    \b
    Exit codes: 0 done · 1 error · 2 usage or configuration · 3 done, with rejections standing ·
    4 not finished yet · 5 stopped at the budget or a billing limit · 130 interrupted (safe: run again)
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Never returns: exits with one of the documented codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
    signal.signal(signal.SIGTERM, _interrupt)  # as a supervisor stops a service: said like Ctrl-C
    code = call(list(sys.argv[1:] if arguments is None else arguments))
    if sys.stdout is None:  # the caller closed it
        sys.exit(code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain of it at its end, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def call(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. A traceback is shown only with `--debug`."""
    try:
        result = cli.main(arguments, standalone_mode=False, prog_name="embedfill")
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        error_ = EmbedfillError("interrupted; nothing is lost", "run it again: it goes on from here", "interrupted")
        return _fail(arguments, error_, INTERRUPTED)
    except click.ClickException as error:
        return _fail(arguments, EmbedfillError(error.format_message(), _usage_hint(error), "usage"), error.exit_code)
    except EmbedfillError as error:
        return _fail(arguments, error, error.exit_code)
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: words instead of a traceback
        return _fail(arguments, _unforeseen(error), 1)


def _unforeseen(error: Exception) -> EmbedfillError:
    """What no other part has put into words. Arrow's own errors are of a file that is not what it was."""
    if type(error).__module__.partition(".")[0] == "pyarrow":
        hint = "an object of the store, or its copy in the cache, is damaged: bring it back, or delete the cache"
        return EmbedfillError(f"a table cannot be read: {error}", hint, "store")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        place = f" to {error.filename}" if error.filename else ""
        hint = "nothing is lost: make room there, or set [cache] dir to another place, then run again"
        return EmbedfillError(f"cannot write{place}: {error.strerror}", hint, "disk")
    hint = "this is a fault of embedfill: run it again with --debug and report what it prints"
    return EmbedfillError(f"{type(error).__name__}: {error}", hint, "internal")


def _fail(arguments: list[str], error: EmbedfillError, exit_code: int) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    say(f"error: {error.message}")
    if error.hint:
        say(f"  {error.hint}")
    if "--json" in arguments:
        with contextlib.suppress(OSError):  # what cannot be written cannot be said either: the exit code tells
            show_json(error.as_dict())
    return exit_code


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see: {context.command_path} --help" if context is not None else "see: embedfill --help"
