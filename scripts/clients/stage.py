"""The processes that the clients play against: an engine with a key, and servers of other makers behind it.

All listen on 127.0.0.1 only, and are gone when the block ends.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEY, MOCK_KEY = "sk-conformance", "sk-behind-the-engine"
HOOK_SECRET = "whsec_" + "Y29uZm9ybWFuY2UtdGVzdC1zZWNyZXQ="
LOCAL, DIMENSIONS, REHEARSED, CHAT, MOCK = "wordllama-256", 256, "text-embedding-3-small", "tiny-chat", "mock-chat"
START_S = 120.0
# What a user has set for real work must reach nobody here.
_FOREIGN = ("EMBEDFILL_", "OPENAI_", "ANTHROPIC_", "LITELLM_", "AWS_", "GOOGLE_", "AZURE_", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True)
class Stage:
    """Where the engine is, and what a driver is to know of it."""

    url: str
    hook: int
    mock: str | None

    def environ(self, folder: Path) -> dict[str, str]:
        """The environment of a driver; the clients' own settings are in it."""
        told = {
            "folder": str(folder),
            "local": LOCAL,
            "dimensions": DIMENSIONS,
            "rehearsed": REHEARSED,
            "chat": CHAT,
            "mock": self.mock,
            "hook": self.hook,
            "hook_secret": HOOK_SECRET,
        }
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        own = {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY, "CONFORMANCE": json.dumps(told)}
        return clean() | home | own | {"NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def clean() -> dict[str, str]:
    """Our own environment without the user's keys and proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.upper().endswith("_PROXY")
    }


@contextmanager
def staged(folder: Path, llama: Path, litellm: Path | None) -> Iterator[Stage]:
    """The engine over llama.cpp's server and, given its interpreter, LiteLLM's proxy."""
    with ExitStack() as stack:
        served = stack.enter_context(
            announced([llama, HERE / "llama_server.py", folder], clean(), folder / "llama.log")
        )
        routes = {CHAT: served}
        if litellm is not None:
            routes[MOCK] = stack.enter_context(_litellm(folder, litellm))
        hook = free_port()
        config = folder / "engine.toml"
        config.write_text(_config(routes, hook))
        command = [sys.executable, "-m", "embedfill.engine", "--config", config, "--data", folder / "data"]
        environ = clean() | {"CONFORMANCE_KEY": KEY, "CONFORMANCE_HOOK_SECRET": HOOK_SECRET, "MOCK_KEY": MOCK_KEY}
        url = stack.enter_context(announced(command, environ, folder / "engine.log"))
        yield Stage(url, hook, MOCK if litellm is not None else None)


@contextmanager
def announced(command: Sequence[object], environ: Mapping[str, str], log: Path) -> Iterator[str]:
    """A process that prints "listening on URL" once it answers."""
    with _running(command, environ, log) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"error: {command[1]} did not start:\n{log.read_text()[-3000:]}")
        yield line.removeprefix("listening on ").strip()


@contextmanager
def _litellm(folder: Path, python: Path) -> Iterator[str]:
    """LiteLLM's proxy in its mock mode: it answers by itself, and asks nobody."""
    config = folder / "litellm.yaml"  # JSON is YAML
    model = {"model": f"openai/{MOCK}", "api_key": "none", "mock_response": "This is what a mock says."}
    config.write_text(json.dumps({"model_list": [{"model_name": MOCK, "litellm_params": model}]}))
    port = free_port()
    command = [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", port]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "HOME": str(folder)}
    environ = clean() | offline | {"LITELLM_MASTER_KEY": MOCK_KEY}
    with _running(command, environ, folder / "litellm.log", quiet=True) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(url + "/health/liveliness", process, folder / "litellm.log")
        yield url + "/v1"


@contextmanager
def _running(
    command: Sequence[object], environ: Mapping[str, str], log: Path, quiet: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    with log.open("w") as output:
        out = output if quiet else subprocess.PIPE
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=output,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait(url: str, process: "subprocess.Popen[str]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"error: {url} does not answer:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _config(routes: Mapping[str, str], hook: int) -> str:
    lines = [
        "[engine]",
        f'preload = ["{LOCAL}"]',
        f'rehearse = ["{REHEARSED}"]',
        'keys.conformance.env = "CONFORMANCE_KEY"',
    ]
    for pattern, url in routes.items():
        lines += [f'[engine.routes."{pattern}"]', f'base_url = "{url}"']
    if MOCK in routes:
        lines.append('api_key_env = "MOCK_KEY"')  # of the last table
    lines += ["[[engine.webhooks]]", f'url = "http://127.0.0.1:{hook}/"', 'secret_env = "CONFORMANCE_HOOK_SECRET"']
    return "\n".join(lines) + "\n"
