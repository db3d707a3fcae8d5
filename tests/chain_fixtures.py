"""A small corpus, its configuration, and a look at everything a run leaves: what the whole-chain tests work with."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedfill import ids
from embedfill.config import Config, load
from embedfill.index.publish import current
from embedfill.loader.packs import read_pack
from embedfill.project import open_project
from embedfill.records import Outcome, Refusal
from embedfill.run import Options, Summary, run
from embedfill.store import layout

_SUBJECTS = ["river", "engine", "garden", "sentence", "library", "compass", "harbour", "battery", "orchard", "theatre"]
_VERBS = ["carries", "measures", "repairs", "describes", "forgets", "paints", "borrows", "follows", "builds", "counts"]
_RUN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from embedfill.config import load
from embedfill.run import Options, run

def at(point):
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    run(load(Path(sys.argv[1])), Options(at=at))
"""


def sentence(number: int) -> str:
    subject, verb, thing = _SUBJECTS[number % 10], _VERBS[number // 10 % 10], _SUBJECTS[number // 100 % 10]
    return f"The {subject} {verb} the {thing} in example {number}."


def documents(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"id": f"doc-{n}", "title": f"Title {n}", "text": sentence(n)} for n in numbers]


@dataclass
class Chain:
    """One corpus, one store, one configuration file in `folder`."""

    folder: Path
    store: str = "store"
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        return self.folder / "chain.toml"

    def write(self, rows: list[dict[str, Any]], name: str = "corpus.parquet", **options: Any) -> "Chain":
        """Writes (or replaces) a file of the corpus."""
        folder = self.folder / "corpus"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
        return self

    def config(self, **tables: Mapping[str, Any]) -> Config:
        """Writes the configuration file with these tables laid over the defaults, and loads it."""
        settings: dict[str, Any] = {
            "corpus": {"paths": ["corpus/*.parquet"], "metadata": ["title"]},
            "embedding": {"model": "wordllama-256"},
            "batch": {"max_inputs": 100, "inputs_per_request": 10, "poll_s": 0.02, "listing_delay_s": 0.1},
            "executor": {"workers": 1},
            "cache": {"dir": "cache"},
        }
        for name, values in {**self.settings, **tables}.items():
            settings.setdefault(name, {}).update(values)
        lines = [f"store = {_toml(self.store)}"]
        for name, values in settings.items():
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        self.config_path.write_text("\n".join(lines) + "\n")
        return load(self.config_path)

    def run(self, options: Options | None = None, **tables: Mapping[str, Any]) -> Summary:
        return run(self.config(**tables), options)

    def run_and_die(self, point: str) -> None:
        """A run in a process of its own that kills itself at a named point of the write order."""
        self.config()
        command = [sys.executable, "-c", _RUN_AND_DIE, str(self.config_path), point]
        died = subprocess.run(command, capture_output=True, check=False)
        assert died.returncode == -signal.SIGKILL, f"{point} was not passed: {died.stderr.decode()[-500:]}"

    def start(self) -> "subprocess.Popen[bytes]":
        """`embedfill run` as a process."""
        self.config()
        command = [sys.executable, "-m", "embedfill.cli", "run", str(self.config_path), "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def kill_engine(self) -> bool:
        """SIGKILLs the store's engine, if one runs."""
        try:
            pid = orjson.loads((self.engine_data / "engine.json").read_bytes())["pid"]
            os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError, KeyError):
            return False
        return True

    @property
    def engine_data(self) -> Path:
        return self.folder / self.store / "engine"

    def vectors(self) -> dict[str, bytes]:
        """Text id to vector bytes, of every pack that the published snapshot names; the first pack serves."""
        project = open_project(load(self.config_path), read_only=True)
        snapshot = current(project.store, project.cache).snapshot
        found: dict[str, bytes] = {}
        for pack in snapshot.packs if snapshot else ():
            for text_ids, vectors in read_pack(project.cache.path(pack)):
                for text_id, vector in zip(ids.tolist(text_ids), vectors, strict=True):
                    found.setdefault(text_id.hex(), vector.tobytes())
        return found

    def submitted(self) -> list[str]:
        """The shard and try of every batch that the engine ever accepted."""
        rows = self._engine("SELECT metadata FROM batches")
        names = [orjson.loads(row[0]) for row in rows]
        return sorted(f"{name['embedfill_shard']}-{name['embedfill_try']}" for name in names)

    def lines_run(self) -> tuple[int, int]:
        """Lines that the engine finished, and the most often that one of them was run."""
        rows = self._engine("SELECT count(*), max(runs) FROM lines")
        return rows[0][0], rows[0][1] or 0

    def _engine(self, query: str) -> list[Any]:
        connection = sqlite3.connect(self.engine_data / "engine.db")
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


def settle(chain: Chain, number: int, refusals: list[Refusal], **changed: Any) -> None:
    """Adds an outcome as a provider's batch would leave it."""
    project = open_project(chain.config())
    data = ids.canonical({"refusals": [asdict(one) for one in refusals], "odd_lines": []})
    key = layout.refusals(project.space.id, ids.digest_hex("refusals", data))
    project.store.create(key, data)
    values: dict[str, Any] = {
        "shard": ids.digest_hex("shard", str(number).encode()), "attempt": 1, "batch_id": f"b{number}",
        "status": "completed", "texts": 5, "vectors": 0, "refused": len(refusals), "prompt_tokens": 0, "cost_usd": 0.0,
        "packs": (), "refusals": key if refusals else None,
    }  # fmt: skip
    outcome = Outcome(**{**values, **changed})
    key = layout.outcome(project.space.id, outcome.shard, outcome.attempt)
    project.store.create(key, ids.canonical(asdict(outcome)))


def _toml(value: object) -> str:
    return orjson.dumps(value).decode()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


@pytest.fixture
def new_chain(tmp_path: Path) -> Iterator[Callable[[str], Chain]]:
    """Further chains of one test, each in a folder of its own."""

    def make(name: str) -> Chain:
        folder = tmp_path / name
        folder.mkdir()
        return Chain(folder)

    yield make
