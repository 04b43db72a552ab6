"""The clients that the benchmarks send as: the same in every run, from fixed seeds.

All addresses are of 11.0.0.0/8; they are values in requests, nothing is sent to them. The recipe of
the mix follows what studies of mail traffic report: most mail comes from a few thousand stable
servers, a churning tail of addresses sends a handful of messages each, and now and then one source
sends tens of times its normal rate.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Final

SEED: Final = 4711
ZIPF_CLIENTS: Final = 20_000
STABLE_SERVERS: Final = 2_000
TAIL_SHARE: Final = 0.3
"""The share of all requests of the mix."""
TAIL_ACTIVE: Final = 1_000
"""Clients of the tail that are sending at any moment."""
FLOOD_RATE: Final = 30
"""A flooding client's rate in units of the mean rate of a stable server."""
FLOOD_SCORES: Final = (5, 45, 95)
WARM_SCORE: Final = 75
"""Score of every client outside the mix: a limit of 800 with the default tiers."""


@dataclass(frozen=True)
class Workload:
    """Clients in the order in which they send.

    Args:
        clients: one address for each request.
        scores: of those that have one.
    """

    clients: Sequence[str]
    scores: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Write the clients for the load generator."""
        path.write_text("".join(f"{client}\n" for client in self.clients))


def address(block: int, number: int) -> str:
    """An address of 11.0.0.0/8: `block` (0 to 15) keeps kinds of clients apart, `number` is below 2**20."""
    return f"11.{block << 4 | number >> 16}.{number >> 8 & 255}.{number & 255}"


def zipf(requests: int, exponent: float = 1.0) -> Workload:
    """20,000 clients, the one of rank r as busy as 1 / r ** exponent."""
    rng = random.Random(SEED)
    clients = [address(1, number) for number in range(ZIPF_CLIENTS)]
    rng.shuffle(clients)
    return Workload(rng.choices(clients, cum_weights=_zipf_weights(ZIPF_CLIENTS, exponent), k=requests), {})


def mix(requests: int) -> Workload:
    """Stable servers (A), a churning tail (B) and three floods (C), mixed request by request."""
    rng = random.Random(SEED)
    stable = [address(2, number) for number in range(STABLE_SERVERS)]
    floods = [address(4, number) for number in range(len(FLOOD_SCORES))]
    scores = {client: _stable_score(rng) for client in stable} | dict(zip(floods, FLOOD_SCORES, strict=True))
    weights = _zipf_weights(STABLE_SERVERS, 1.1)
    tail = _tail(rng, scores)
    flood_weight = len(floods) * FLOOD_RATE / (STABLE_SERVERS + len(floods) * FLOOD_RATE)
    clients = []
    kinds = rng.choices("ABC", (*_shares(flood_weight),), k=requests)
    from_stable = iter(rng.choices(stable, cum_weights=weights, k=kinds.count("A")))
    from_floods = iter(rng.choices(floods, k=kinds.count("C")))
    sources = {"A": from_stable, "B": tail, "C": from_floods}
    clients = [next(sources[kind]) for kind in kinds]
    return Workload(clients, scores)


def _shares(flood_weight: float) -> tuple[float, float, float]:
    rest = 1 - TAIL_SHARE
    return rest * (1 - flood_weight), TAIL_SHARE, rest * flood_weight


def _zipf_weights(clients: int, exponent: float) -> list[float]:
    return list(accumulate(1 / rank**exponent for rank in range(1, clients + 1)))


def _stable_score(rng: random.Random) -> int:
    """Mostly 70 to 100."""
    return rng.randint(70, 100) if rng.random() < 0.9 else rng.randint(0, 69)


def _tail(rng: random.Random, scores: dict[str, int]) -> Iterator[str]:
    """Clients that come and go: nine of ten send 1 to 10 messages, the tenth up to 100; one of ten has a score."""
    numbers = count()
    active: list[tuple[str, int]] = []
    while True:
        while len(active) < TAIL_ACTIVE:
            client = address(3, next(numbers))
            if rng.random() < 0.1:
                scores[client] = rng.randint(0, 100)
            active.append((client, rng.randint(1, 10) if rng.random() < 0.9 else rng.randint(11, 100)))
        at = rng.randrange(TAIL_ACTIVE)
        client, left = active[at]
        if left > 1:
            active[at] = (client, left - 1)
        else:
            active[at] = active[-1]
            active.pop()
        yield client
