"""llama.cpp's own server as a process on 127.0.0.1, with a chat model of random weights, and an engine in front of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.engine_fixtures import EngineProcess

SERVER = Path(__file__).parent.parent / "scripts" / "clients" / "llama_server.py"
CHAT = "tiny-chat"


@pytest.fixture(scope="session")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its base URL. It ends when nothing holds its standard input any more."""
    command = [sys.executable, str(SERVER), str(tmp_path_factory.mktemp("llama"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip()
        process.terminate()


@pytest.fixture(scope="session")
def fronted(llama_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The official client of an engine that has its chat model from llama.cpp."""
    folder = tmp_path_factory.mktemp("fronted")
    (folder / "engine.toml").write_text(f'[engine.routes.{CHAT}]\nbase_url = "{llama_url}"\n')
    engine = EngineProcess(folder / "data", "--config", str(folder / "engine.toml")).start()
    client = openai.OpenAI(base_url=engine.url, api_key="any", max_retries=0)
    yield client
    client.close()
    engine.close()
