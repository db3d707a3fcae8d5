import pytest

from embedfill.index.plan import FLAT_ROWS, choose
from embedfill.index.train import untrained


@pytest.mark.parametrize(
    ("rows", "dimensions", "memory", "kind"),
    [
        (0, 384, 0, "Flat"),
        (FLAT_ROWS, 384, 10**9, "Flat"),
        (FLAT_ROWS + 1, 384, 10**9, "IVF226,PQ192x4fs,Refine(fp16)"),
        (1_000_000, 256, 10**9, "IVF1600,PQ128x4fs,Refine(fp16)"),
        (1_000_000, 256, 60 * 10**6, "IVF1600,PQ64x4fs,Refine(fp16)"),
        (1_000_000, 256, 1, "IVF1600,PQ64x4fs,Refine(fp16)"),
        (30_000, 6, 1, "IVF277,PQ3x4fs,Refine(fp16)"),
        (30_000, 7, 10**9, "IVF277,SQ8,Refine(fp16)"),
    ],
)
def test_rule(rows: int, dimensions: int, memory: int, kind: str) -> None:
    assert choose(rows, dimensions, memory).kind == kind


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 6, 7, 10, 384, 1536])
def test_faiss_knows_every_kind(dimensions: int) -> None:
    for memory in (1, 10**12):
        plan = choose(100_000, dimensions, memory)
        index = untrained(plan)
        assert index.d == dimensions
        assert index.nlist == plan.lists
        assert not index.is_trained
