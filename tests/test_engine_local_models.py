"""Models of the user's own in an engine: served under their names, refused at the start where they cannot be, and one
that is damaged costs its requests only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

from embedfill.engine import effective
from embedfill.engine.settings import EngineSettings
from embedfill.engine.work.local_models import makers
from embedfill.errors import ConfigError
from embedfill.models.load import offered
from embedfill.models.onnx import open_onnx
from tests.engine_fixtures import EngineProcess, jsonl, request_line
from tests.model_fixtures import tiny_directory

Engines = Callable[..., EngineProcess]


def settings(root: Path, **values: Any) -> EngineSettings:
    return EngineSettings.model_validate({"data": root / "data", **values})


def test_names_of_the_user_stand_beside_ours(tmp_path: Path) -> None:
    tiny = tiny_directory(tmp_path / "tiny", pooling_mode="cls")
    given = settings(tmp_path, models={"mine": {"path": str(tiny), "max_tokens": 64}}, device="cpu", threads=1)
    found = dict(makers(given))
    assert tuple(found) == (*offered(), "mine")
    model = found["mine"]()
    assert (model.name, model.dimensions, model.max_tokens) == ("mine", 4, 64)


def test_what_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.models\.mine\.path = .*no such directory"):
        list(makers(settings(tmp_path, models={"mine": {"path": str(tmp_path / "nowhere")}})))
    with pytest.raises(ConfigError, match=r"engine\.models\.wordllama-256.*another model's"):
        list(makers(settings(tmp_path, models={"wordllama-256": {"path": str(tmp_path)}})))
    mine = settings(tmp_path, models={"mine": {"path": str(tmp_path)}})
    with pytest.raises(ConfigError, match=r"engine\.models\.mine\.path = .*tokenizer\.json is missing"):
        effective.check(mine)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no model\.onnx"):
        effective.check(mine)


def test_an_engine_serves_a_directory_and_outlives_a_damaged_one(tmp_path: Path, new_engine: Engines) -> None:
    tiny = tiny_directory(tmp_path / "tiny", pooling_mode="cls")
    broken = tiny_directory(tmp_path / "broken", pooling_mode="cls")
    (broken / "model.onnx").write_bytes(b"x" * 100)
    config = tmp_path / "engine.toml"
    config.write_text('[engine.models]\nmine = { path = "tiny" }\nbroken = { path = "broken" }\n')
    engine = new_engine("--config", str(config))
    with (tmp_path / "log").open("w") as log:
        engine.start(log=log)
    assert {"mine", "broken"} <= {model["id"] for model in engine.get("/models").json()["data"]}
    expected = open_onnx("mine", tiny, None, None, 1, "cpu").embed(["alpha beta", "delta"])
    answer = engine.post("/embeddings", json={"model": "mine", "input": ["alpha beta", "delta"]}).json()
    np.testing.assert_allclose([row["embedding"] for row in answer["data"]], expected, atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 9
    refused = engine.post("/embeddings", json={"model": "broken", "input": "alpha"})
    assert refused.status_code == 500
    message = "The model 'broken' cannot be loaded; the engine's log says why."
    assert refused.json()["error"]["message"] == message
    ended = engine.finished(engine.submit(jsonl([request_line("a", "alpha", model="broken")])))
    assert (ended["status"], ended["request_counts"]["failed"]) == ("completed", 1)
    (line,) = engine.lines(ended["error_file_id"])
    assert line["response"]["status_code"] == 500 and line["response"]["body"]["error"]["message"] == message
    (told,) = [line for line in (tmp_path / "log").read_text().splitlines() if " ERROR " in line]
    assert "model=broken" in told and "model.onnx" in told
    ended = engine.finished(engine.submit(jsonl([request_line("a", "alpha", model="mine")])))
    assert ended["request_counts"]["completed"] == 1
