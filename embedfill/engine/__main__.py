"""`python -m embedfill.engine`: the engine's process, without the rest of the command line."""

import sys

import click

from embedfill.engine.command import command
from embedfill.errors import EmbedfillError


def main() -> None:
    try:
        command(prog_name="python -m embedfill.engine")
    except EmbedfillError as error:
        click.echo(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
