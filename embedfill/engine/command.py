"""The arguments of the engine's process, shared by `embedfill engine` and `python -m embedfill.engine`. Runs nothing
itself."""

import secrets
from pathlib import Path
from typing import Any, get_args

import click
import orjson
from pydantic import SecretStr

from embedfill import cores
from embedfill.errors import UsageError
from embedfill.models.devices import Device

_KEY_BYTES = 32
_FLAGS: dict[str, str] = {"models": "preload", "grace": "grace_s", "window": "windows", "route": "routes"}


@click.command("engine")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file with a table [engine].")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of its files, batches and state; one engine at a time.",
)
@click.option("--host", help="Another than loopback needs a key.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 picks one, the last one if it can.  [default: 0]")
@click.option(
    "--api-key",
    envvar="EMBEDFILL_ENGINE_KEY",
    help="Bearer key that clients must send. Every user of this machine can see it here: better in the environment."
    "  [env: EMBEDFILL_ENGINE_KEY]",
)
@click.option("--model", "models", multiple=True, help="Load this model before the first request; may be repeated.")
@click.option("--threads", type=click.IntRange(0), help="For the models; 0 means every core.  [default: 0]")
@click.option("--device", type=click.Choice(get_args(Device)), help="Where the models run.  [default: auto]")
@click.option(
    "--route",
    multiple=True,
    metavar="MODELS=URL",
    help="Send these models (a pattern, such as *) to an OpenAI-compatible server; may be repeated.",
)
@click.option("--rehearse", multiple=True, metavar="MODEL", help="Stand in for a remote model; may be repeated.")
@click.option("--limits", metavar="NAME", help="Enforce a provider's limits, such as openai-tier-1.")
@click.option("--window", multiple=True, metavar="TIME", help="A completion window; may be repeated.  [default: 24h]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the log on stderr.  [default: text]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="[default: info, one line a request; warning with --while-used]",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="What is in hand may take so long when the engine is told to stop.  [default: 8]",
)
@click.option("--while-used", is_flag=True, help="Stop once nobody holds a lock on users.lock in the directory.")
@click.option("--check", is_flag=True, help="Say what the settings come to, without their secrets, and stop.")
@click.option("--new-key", is_flag=True, help="Make a key, say what to write into the configuration, and stop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, with --check and --new-key.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
def command(config: Path | None, check: bool, new_key: bool, as_json: bool, **flags: Any) -> None:  # noqa: ANN401
    """Run a Batch API server: embeddings by local models, everything else by the servers that it is given.

    It speaks the Files, Uploads, Batches, Embeddings, Chat Completions, Responses, Completions and Moderations API
    under http://HOST:PORT/v1, and answers /healthz, /readyz and /metrics. Flags stand over the file; of the
    environment only keys are read.

    Ctrl-C or SIGTERM ends it once what is in hand is done, a second one at once; whatever it was doing goes on when it
    is started again on the same directory. SIGHUP has it read the keys of its file again.

    \b
    Examples:
      embedfill engine --data engine-data --port 8420
      embedfill engine --data engine-data --route '*=http://127.0.0.1:8000/v1'
      embedfill engine --data engine-data --rehearse text-embedding-3-small --limits openai-tier-1
      embedfill engine --new-key
      embedfill engine --config engine.toml --check
      embedfill engine --config engine.toml --log-format json
    """
    if new_key:
        _show(_new_key(), as_json)
        return
    cores.bound_libraries()
    try:
        from embedfill.engine import effective, settings
        from embedfill.engine.server import serve
    except ImportError as error:
        raise UsageError(f"the engine needs the package {error.name}", 'pip install "embedfill[local]"') from None
    given = _given(flags)
    found = settings.load(config, given)
    if check:
        effective.check(found)
        _show(effective.shown(found), as_json)
        return
    again = (lambda: settings.load(config, given).digests()) if config else None
    serve(found, lambda url: click.echo(f"listening on {url}"), again)  # echo flushes


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as settings; those that were not given are left out."""
    given = {name: value for name, value in flags.items() if value is not None and value is not False and value != ()}
    found = {_FLAGS.get(name, name): value for name, value in given.items()}
    for name, value in found.items():
        if isinstance(value, tuple):
            found[name] = list(value)
    if "data" in found:
        found["data"] = found["data"].resolve()
    if "api_key" in found:
        found["api_key"] = SecretStr(_key(found["api_key"]))
    if "routes" in found:
        found["routes"] = dict(map(_route, found["routes"]))
    return found


def _key(value: str) -> str:
    if not value.strip():
        raise UsageError("--api-key is empty", "give a key; embedfill engine --new-key makes one")
    return value.strip()


def _route(value: str) -> tuple[str, dict[str, str]]:
    models, equals, url = value.partition("=")
    if not equals or not models:
        raise UsageError(f"--route {value}: not MODELS=URL", "for instance --route '*=http://127.0.0.1:8000/v1'")
    return models, {"base_url": url}


def _new_key() -> dict[str, str]:
    from embedfill.engine.owners import digest_of

    key = SecretStr(secrets.token_urlsafe(_KEY_BYTES))
    return {"key": key.get_secret_value(), "sha256": digest_of(key)}


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(values))
        return
    for name, value in values.items():
        click.echo(f"{name} = {orjson.dumps(value).decode()}")
