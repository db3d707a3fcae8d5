"""A real S3 server on 127.0.0.1, a process of its own, and a fresh bucket in it for every test that asks."""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

# The server looks whether a key is free and writes it in two steps; a lock makes them one, as they are in S3.
_SERVER = """
import threading
from moto.s3.responses import S3Response
from moto.server import main

put, lock = S3Response.put_object, threading.Lock()

def put_alone(self):
    with lock:
        return put(self)

S3Response.put_object = put_alone
main(["-H", "127.0.0.1", "-p", "0"])
"""


@dataclass(frozen=True)
class S3:
    """`url` is a store in a fresh bucket; `env` is what reaches the server, also from a subprocess."""

    url: str
    endpoint: str
    env: dict[str, str]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as output:
        command = [sys.executable, "-W", "ignore", "-c", _SERVER]
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(server, log)
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3_server(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    env = {
        "AWS_ACCESS_KEY_ID": "AKIAFORTESTSONLY",
        "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests-only",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    httpx.put(f"{s3_endpoint}/{bucket}").raise_for_status()
    return S3(f"s3://{bucket}/some/prefix", s3_endpoint, env)


def _address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address that the server says it listens on, as soon as it says so."""
    for _ in range(600):
        if found := re.search(rb"Running on (http://127\.0\.0\.1:\d+)", log.read_bytes()):
            return found.group(1).decode()
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}")
