"""The arguments of the engine's process, shared by `embedfill engine` and `python -m embedfill.engine`."""

from pathlib import Path

import click
from pydantic import SecretStr

from embedfill import cores
from embedfill.errors import UsageError


@click.command("engine")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file with a table [engine].")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 picks one.  [default: 0]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of its files, batches and state; one engine at a time.",
)
@click.option("--host", help="Another than loopback needs a key.  [default: 127.0.0.1]")
@click.option(
    "--api-key", envvar="EMBEDFILL_ENGINE_KEY", help="Bearer key that clients must send.  [env: EMBEDFILL_ENGINE_KEY]"
)
@click.option("--model", "models", multiple=True, help="Load this model before the first request; may be repeated.")
@click.option("--threads", type=click.IntRange(0), help="For the models; 0 means every core.")
@click.option("--rehearse", multiple=True, metavar="MODEL", help="Stand in for a remote model; may be repeated.")
@click.option("--limits", metavar="NAME", help="Enforce a provider's limits, such as openai-tier-1.")
@click.option("--while-used", is_flag=True, help="Stop once nobody holds a lock on users.lock in the directory.")
def command(
    config: Path | None,
    port: int | None,
    data: Path | None,
    host: str | None,
    api_key: str | None,
    models: tuple[str, ...],
    threads: int | None,
    rehearse: tuple[str, ...],
    limits: str | None,
    while_used: bool,
) -> None:
    """Run a Batch API server that embeds with local models.

    It speaks the Files, Batches and Embeddings API under http://HOST:PORT/v1. Stop it with Ctrl-C; whatever it was
    doing goes on when it is started again on the same directory.

    \b
    Example:
      embedfill engine --data engine-data --port 8420
    """
    cores.bound_libraries()
    try:
        from embedfill.engine.server import serve
        from embedfill.engine.settings import load
    except ImportError as error:
        raise UsageError(f"the engine needs the package {error.name}", 'pip install "embedfill[local]"') from None
    flags = {
        "data": data and data.resolve(),
        "port": port,
        "host": host,
        "api_key": SecretStr(api_key) if api_key else None,
        "preload": list(models) or None,
        "threads": threads,
        "rehearse": list(rehearse) or None,
        "limits": limits,
        "while_used": while_used or None,
    }
    serve(load(config, flags), lambda url: click.echo(f"listening on {url}"))  # echo flushes
