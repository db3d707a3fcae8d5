"""The arguments of the engine's process, shared by `embedfill engine` and `python -m embedfill.engine`."""

from pathlib import Path

import click
from pydantic import SecretStr

from embedfill.errors import UsageError


@click.command("engine")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0 picks one.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory of its files, batches and state; one engine at a time.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Another than loopback needs a key.")
@click.option(
    "--api-key", envvar="EMBEDFILL_ENGINE_KEY", help="Bearer key that clients must send.  [env: EMBEDFILL_ENGINE_KEY]"
)
@click.option("--model", "models", multiple=True, help="Load this model before the first request; may be repeated.")
@click.option("--threads", type=click.IntRange(0), default=0, help="For the models; 0 means every core.")
@click.option("--while-used", is_flag=True, help="Stop once nobody holds a lock on users.lock in the directory.")
def command(
    port: int, data: Path, host: str, api_key: str | None, models: tuple[str, ...], threads: int, while_used: bool
) -> None:
    """Run a Batch API server that embeds with local models.

    It speaks the Files, Batches and Embeddings API under http://HOST:PORT/v1. Stop it with Ctrl-C; whatever it was
    doing goes on when it is started again on the same directory.

    \b
    Example:
      embedfill engine --data engine-data --port 8420
    """
    try:
        from embedfill.engine.server import EngineSettings, serve
    except ImportError as error:
        raise UsageError(f"the engine needs the package {error.name}", 'pip install "embedfill[local]"') from None
    key = SecretStr(api_key) if api_key else None
    settings = EngineSettings(data.resolve(), port, host, key, models, threads, while_used)
    serve(settings, lambda url: click.echo(f"listening on {url}"))  # echo flushes
