"""What batches asked for lately is not embedded again: what is kept, for how long, and for whom."""

from collections.abc import Sequence

import numpy as np
import pytest

from embedfill.engine.work import pool
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest
from embedfill.engine.work.pool import Answer, Runner
from embedfill.engine.work.recent import Recent
from embedfill.errors import RefusedError
from embedfill.models.base import Vectors
from embedfill.models.load import load
from tests.engine_fixtures import STATIC

ROW = np.arange(4, dtype=np.float32)


def test_the_least_recently_used_go_first() -> None:
    recent = Recent(3 * (1 + ROW.nbytes + 300))
    recent.add((name, 1, ROW) for name in "abc")
    assert set(recent.find(["a", "x"])) == {0}
    recent.add([("d", 2, ROW)])
    assert set(recent.find(list("abcd"))) == {0, 2, 3}


def test_it_is_bounded_by_bytes_and_holds_no_array_as_a_whole() -> None:
    recent = Recent(100_000)
    large = np.zeros((100_000, 4), np.float32)
    for n in range(1000):
        recent.add([(f"{n} " + "x" * 1000, 1, large[n]), ((n,) * 100, 1, large[n])])
    assert 20 < len(recent._known) < 100
    assert all(vector.base is None for _tokens, vector in recent._known.values())
    for n in range(1000):
        recent.add([(f"{n}", 1, ROW)] * 2)
    assert recent._held == sum(len(item) + vector.nbytes + 300 for item, (_, vector) in recent._known.items()) <= 1e5


def test_what_is_larger_than_all_is_not_kept() -> None:
    recent = Recent(1000)
    recent.add([("x" * 1000, 1, ROW)])
    assert not recent._known and recent._held == 0


class Noting:
    """The static model, noting how many inputs it is asked for."""

    def __init__(self) -> None:
        self._model = load(STATIC)
        self.name, self.dimensions, self.max_tokens = STATIC, 256, 2048
        self.shorter_dimensions: Sequence[int] = ()
        self.tokenizer = self._model.tokenizer
        self.asked = 0

    def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        self.asked += len(inputs)
        return self._model.embed(inputs)


@pytest.fixture
def model() -> Noting:
    return Noting()


@pytest.fixture
def runner(model: Noting, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(pool, "_WORTH_S", 0.0)  # as of a slow model
    return Runner(model)


def _ask(runner: Runner, *inputs: object, urgent: bool = False) -> Answer:
    (answer,) = runner.answer([EmbeddingRequest(STATIC, list(inputs), False, None)], urgent)
    return answer


def test_the_same_input_later_is_the_same_answer(runner: Runner, model: Noting) -> None:
    first = _ask(runner, "a", "b c", (5, 6))
    again = _ask(runner, "b c", "new", (5, 6), "a", "b c")
    assert isinstance(first, Embedded) and isinstance(again, Embedded)
    assert model.asked == 4
    np.testing.assert_array_equal(again.vectors[[3, 0, 2]], first.vectors)
    np.testing.assert_allclose(again.vectors, load(STATIC).embed(["b c", "new", (5, 6), "a", "b c"]), atol=1e-6)
    counts = [len(ids) for ids in load(STATIC).tokenizer.ids(["b c", "new", "a"])]
    assert again.tokens == 2 * counts[0] + counts[1] + counts[2] + 2
    assert isinstance(_ask(runner, "a"), Embedded) and model.asked == 4


def test_synchronous_requests_neither_read_nor_write_it(runner: Runner, model: Noting) -> None:
    for urgent in (True, True, False, True, False):
        _ask(runner, "a", urgent=urgent)
    assert model.asked == 4


def test_what_is_refused_is_not_remembered(runner: Runner, model: Noting) -> None:
    for _ in range(2):
        assert isinstance(_ask(runner, "word " * 3000, "fine"), RefusedError)
    assert model.asked == 0 and not runner._recent._known


def test_a_limit_holds_for_what_is_remembered_too(model: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORTH_S", 0.0)
    runner = Runner(model, request_tokens=10)
    assert isinstance(_ask(runner, (5,) * 8), Embedded)
    assert isinstance(_ask(runner, (5,) * 8, (5,) * 8), RefusedError)


def test_a_fast_model_is_asked_again(model: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORTH_S", 60.0)
    runner = Runner(model)
    for _ in range(2):
        _ask(runner, *(f"word {n}" for n in range(500)))
    assert model.asked == 1000 and not runner._recent._known
