"""`embedfill init`: writes a commented configuration. Asks nothing, and replaces nothing unless told to."""

from importlib import resources
from pathlib import Path

import click

from embedfill.cli.common import output_options, show
from embedfill.errors import UsageError

TEMPLATE = "template.toml"


def template() -> str:
    """The configuration that `init` writes: every setting there is, with its meaning and default."""
    return resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")


def write(path: Path, force: bool = False) -> None:
    """Writes the template to `path`. Raises UsageError if there is a file already (without `force`) or it cannot."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise UsageError(f"{path} is already there", "another name, or --force to replace it") from None
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", "name a file in a folder that exists and can be written"
        ) from None


@click.command("init")
@click.argument("path", type=click.Path(path_type=Path), default="embedfill.toml")
@click.option("--force", is_flag=True, help="Replace a file that is already there.")
@output_options
def command(path: Path, force: bool, as_json: bool) -> None:
    """Write a commented configuration to PATH (embedfill.toml).

    \b
    Example:
      embedfill init handbook.toml
    """
    write(path, force)
    told = f"wrote {path}: set `store` and the `paths` of the corpus in it, then: embedfill plan {path}"
    show({"path": str(path)}, as_json, lambda: [told])
