"""The script that scores models on judged questions finds what is to be found, and says how the models differ."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("onnx")
pytest.importorskip("tokenizers")
pytest.importorskip("wordllama")

from tests.model_fixtures import tiny_directory

SCRIPT = Path(__file__).parent.parent / "scripts/score_models.py"
TOPICS = ("reading files", "network sockets", "regular expressions", "sorting lists", "time zones", "unit tests")


def corpus(root: Path) -> Path:
    sections = [{"id": f"s{n}", "heading": topic, "text": f"All about {topic}."} for n, topic in enumerate(TOPICS)]
    queries = [
        {"query_id": f"q{n}", "text": f"how does {topic} work", "kind": "odd" if n % 2 else "even"}
        for n, topic in enumerate(TOPICS[:4])
    ]
    qrels = [{"query_id": f"q{n}", "document_id": f"s{n}", "relevance": 1} for n in range(4)]
    for name, rows in (("sections", sections), ("queries", queries), ("qrels", qrels)):
        pq.write_table(pa.Table.from_pylist(rows), root / f"{name}.parquet")
    return root


def test_models_are_compared_with_the_first(tmp_path: Path) -> None:
    folder, tiny = corpus(tmp_path), tiny_directory(tmp_path / "tiny", pooling_mode="mean")
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        "wordllama-256",
        str(tiny),
        "--sections",
        "5",
        "--threads",
        "1",
    ]
    good, poor = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert (good["model"], poor["model"]) == ("wordllama-256", "tiny")
    assert good["kinds"]["even"] == {
        "questions": 2, "mrr_at_10": 1.0, "recall_at_10": 1.0, "better": 0, "worse": 0, "mrr_change": 0.0,
        "mrr_error": 0.0,
    }  # fmt: skip
    assert (good["times_as_fast"], round(good["cosine_min"], 5)) == (1.0, 1.0)
    assert sum(kind["worse"] for kind in poor["kinds"].values()) > 0
    table = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert len(table) == 2 + 2 * 2
    assert table[2].startswith("| wordllama-256 |")
    assert "| 2 even | 1.0000 | +0.0000 ± 0.0000 | 0 : 0 | 1.0000 |" in table[2]
