"""Models share the cores: one forward pass at a time, whoever asks."""

import threading
import time
from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.work.pool import Pool
from embedfill.errors import RefusedError
from embedfill.models.base import Tokenizer, Vectors
from embedfill.models.tokenizers import load as load_tokenizer


class Alone:
    """Fails when another of its kind runs; gives the number of each input's letters."""

    running = 0
    asked: ClassVar[list[tuple[str, list[int]]]] = []

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        self.name, self.dimensions, self.max_tokens = name, 2, 8192
        self.shorter_dimensions: Sequence[int] = ()
        self.tokenizer = tokenizer

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        kind = type(self)
        kind.running += 1
        assert kind.running == 1
        time.sleep(0.002)
        kind.running -= 1
        kind.asked.append((self.name, [len(item) for item in inputs]))
        return np.array([[len(item), 0] for item in inputs], np.float32)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(Alone, "asked", [])
    made = Pool(1)
    for name in ("one", "two"):
        made.add(name, lambda name=name: Alone(name, load_tokenizer("cl100k_base")))
    return made


def test_forward_passes_of_all_models_go_one_after_the_other(pool: Pool) -> None:
    failures: list[BaseException] = []

    def ask(name: str, urgent: bool) -> None:
        try:
            for n in range(10):
                pool.runner(name).answer([EmbeddingRequest(name, [f"{name} {n}"], False, None)], urgent)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(name, urgent)) for name in ("one", "two") for urgent in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(Alone.asked) == 40


def test_a_model_without_token_ids_is_given_texts_of_like_length(pool: Pool) -> None:
    """Its tokenizer only counts; the counts are still exact, and vectors come back in order."""
    runner = pool.runner("one")
    rows = ["word " * (n * 37 % 50 + 1) for n in range(300)]
    answers = runner.answer([EmbeddingRequest("one", [row, (1, 2, 3)], False, None) for row in rows])
    for row, answer in zip(rows, answers):
        assert isinstance(answer, Embedded)
        assert answer.vectors[:, 0].tolist() == [len(row), 3]
        assert answer.tokens == runner.model.tokenizer.count([row])[0] + 3
    assert len(Alone.asked) > 1 and sum(len(lengths) for _name, lengths in Alone.asked) == 51
    letters = [length for _name, lengths in Alone.asked for length in lengths if length > 3]
    assert letters == sorted(letters)


def test_a_model_is_made_once_and_only_when_it_is_asked_for() -> None:
    pool, made = Pool(1), count()
    pool.add("slow", lambda: (next(made), Alone("slow", SimpleNamespace()))[1])
    assert "slow" in pool.names
    assert pool.runner("slow") is pool.runner("slow")
    assert next(made) == 1
    with pytest.raises(RefusedError, match=r"there are: .*slow"):
        pool.runner("other")
