"""Finds the cheapest settings of an index that reach a recall. Trains and adds nothing, and does not measure the result.

The cost of a query counts in scanned codes: one for each row of the lists that are looked into, `LIST_COST` for each
list's centroid and `RERANK_COST` for each candidate that is scored again. Questions are shorter than passages and lie
further from their answers: settings that find 97 % for passages found 92 % for questions in our documents, and the number
of lists decided it. Hence `MARGIN` and `WIDEN`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from embedfill.index.ranker import ListRanker
from embedfill.index.truth import Truth, without_own

MARGIN = 0.4  # of what is missing to 1: a target of 0.95 is tuned to 0.97
WIDEN = 2  # then both settings are multiplied by this
DEPTHS = (50, 100, 200, 400, 800)
DEEPEST = 1_600
LIST_COST = 8
RERANK_COST = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """How many lists to look into, and how many candidates to score again."""

    nprobe: int
    depth: int


def tune(ranker: ListRanker, truth: Truth, target: float) -> Setting:
    """The cheapest setting that reaches the target with a margin, widened; else the best that there is."""
    if not truth.rows.size:
        return Setting(ranker.lists, min(DEEPEST, ranker.rows))
    goal = target + MARGIN * (1 - target)
    tried = list(_recalls(ranker, truth, goal))
    enough = [setting for setting, recall in tried if recall >= goal]
    if enough:
        return wider(ranker, min(enough, key=lambda setting: cost(ranker, setting)))
    return wider(ranker, max(tried, key=lambda pair: pair[1])[0])


def wider(ranker: ListRanker, setting: Setting) -> Setting:
    """Twice the lists and twice the candidates, as far as there are so many."""
    nprobe = min(setting.nprobe * WIDEN, ranker.lists)
    return Setting(nprobe, min(setting.depth * WIDEN, DEEPEST, ranker.rows))


def cost(ranker: ListRanker, setting: Setting) -> float:
    """What a query costs, in scanned codes."""
    scanned = setting.nprobe * ranker.rows / ranker.lists
    return LIST_COST * ranker.lists + scanned + RERANK_COST * setting.depth


def _recalls(ranker: ListRanker, truth: Truth, goal: float) -> Iterator[tuple[Setting, float]]:
    """Every depth for 1, 2, 4, … lists, until the least depth is enough: from there on it only gets dearer."""
    depths = [min(depth, ranker.rows) for depth in DEPTHS]
    nprobe = 1
    while True:
        found = ranker.candidates(truth.queries.vectors, nprobe, depths[-1] + 1)
        recalls = truth.recall_of_candidates(without_own(found, truth.queries.rows), depths)
        yield from ((Setting(nprobe, depth), recall) for depth, recall in zip(depths, recalls))
        if recalls[0] >= goal or nprobe >= ranker.lists:
            return
        nprobe = min(2 * nprobe, ranker.lists)
