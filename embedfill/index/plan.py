"""Which index for how many vectors: the rule, as a pure function. Builds nothing.

- Up to `FLAT_ROWS` rows: exact inner product, `Flat`.
- Above: `IVF{1.6 sqrt(rows)},PQ{d/2}x4fs` (inverted lists of 4-bit product-quantiser codes, scanned in registers), whose
  candidates are scored again with float16 vectors from a memory-mapped file, `Refine(fp16)`. It can remove rows, which
  graphs cannot.
- An odd number of dimensions has no PQ{d/2}: SQ8, a byte a dimension.
- If the codes do not fit the memory that is allowed, PQ{d/4}. The float16 file is not counted: it stays on disk, and the
  page cache holds what is used of it.
"""

from dataclasses import dataclass

FLAT_ROWS = 20_000
LISTS_PER_SQRT_ROW = 1.6
ID_BYTES = 8  # what FAISS keeps for each row beside its code


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """`lists` is 0 for Flat. `code` is what the lists hold; `resident_bytes` estimates what stays in memory."""

    rows: int
    dimensions: int
    lists: int
    code: str
    resident_bytes: int

    @property
    def factory(self) -> str:
        """The string that FAISS' index factory takes."""
        return f"IVF{self.lists},{self.code}" if self.lists else "Flat"

    @property
    def kind(self) -> str:
        """The same with our own second stage."""
        return f"{self.factory},Refine(fp16)" if self.lists else "Flat"


def choose(rows: int, dimensions: int, memory_bytes: int) -> IndexPlan:
    """The index for so many rows, by the rule above. Where nothing fits the memory, the smallest."""
    if rows <= FLAT_ROWS:
        return flat(rows, dimensions)
    lists = max(1, round(LISTS_PER_SQRT_ROW * rows**0.5))
    plans = [
        IndexPlan(rows, dimensions, lists, code, rows * (size + ID_BYTES) + lists * dimensions * 4)
        for code, size in _codes(dimensions)
    ]
    return next((plan for plan in plans if plan.resident_bytes <= memory_bytes), plans[-1])


def flat(rows: int, dimensions: int) -> IndexPlan:
    """Exact search over all rows."""
    return IndexPlan(rows, dimensions, 0, "Flat", rows * (4 * dimensions + ID_BYTES))


def _codes(dimensions: int) -> list[tuple[str, int]]:
    """Codes and their bytes a row, best first."""
    if dimensions % 2:
        return [("SQ8", dimensions)]
    parts = [dimensions // 2] + ([dimensions // 4] if dimensions % 4 == 0 else [])
    return [(f"PQ{part}x4fs", (part + 1) // 2) for part in parts]
