"""How often a request of a batch is tried before it is given up. Counts its tries; sends nothing and knows no clock.

A line that a server always refuses must not hold its batch for the whole window, nor may an outage use up the lines of a
batch. So what was answered 5xx counts against the line: eight times over a minute at least where others of its model
were answered meanwhile, and over an hour where nobody was. No answer, 429 and 503 tell of the server; they count only
where others were answered since the last try, and end a line after twenty such tries and an hour. A success that is no JSON
object may cost money each time: three.
"""

import math
from dataclasses import dataclass

from embedfill.engine.relay.upstream import Reply

_FAILED, _BUSY, _GARBLED = 8, 20, 3
_SPAN_S = 60.0
_LONG_S = 3600.0
_BUSY_STATUSES = frozenset({429, 503})


@dataclass(slots=True)
class Trials:
    """The tries of one request that were no success. `failed_at` and `busy_at` are when it first was so, `peers` how many
    of its like had been answered when it first failed."""

    failed: int = 0
    busy: int = 0
    garbled: int = 0
    failed_at: float = math.inf
    busy_at: float = math.inf
    peers: int = 0

    def over(self, reply: Reply, now: float, peers: int, vain: bool) -> bool:
        """Counts one more; whether it was the last. `peers`: how many of its like were answered so far; `vain`: some of
        them since it failed before."""
        if reply.garbled:
            self.garbled += 1
        elif is_busy(reply):
            self.busy += vain
            self.busy_at = min(self.busy_at, now)
        else:
            if not self.failed:
                self.failed_at, self.peers = now, peers
            self.failed += 1
        return self._over(now, peers > self.peers)

    def _over(self, now: float, others_answered: bool) -> bool:
        span_s = _SPAN_S if others_answered else _LONG_S
        return (
            self.garbled >= _GARBLED
            or (self.failed >= _FAILED and now - self.failed_at >= span_s)
            or (self.busy >= _BUSY and now - self.busy_at >= _LONG_S)
        )


def is_busy(reply: Reply) -> bool:
    """Whether it tells of the server rather than of the request."""
    return not reply.came or reply.status in _BUSY_STATUSES
