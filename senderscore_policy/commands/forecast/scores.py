"""The scores that a forecast goes by: given in a file, known to the daemon, looked up, or assumed."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from senderscore_policy.commands.control import ControlClient, NoDaemonError, find_daemon
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths, state_directory
from senderscore_policy.errors import ConfigError, InputError
from senderscore_policy.policy.clients import Network, NetworkTable, parse_address
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Reputation, Scored, Unknown
from senderscore_policy.reputation.source import ScoreSource, open_source

SYSTEM_STATE: Final = Path("/var/lib/senderscore-policy")
"""Where the packaged service keeps its state."""
STATE_FILE: Final = "scores"
AT_ONCE: Final = 50
"""Lookups under way at a time."""


class Scores:
    """What is known of each client, the same at all times (`ports.ReputationSource`).

    Args:
        given: scores by network.
        assumed: of every client of which nothing else is known.

    Attributes:
        origins: where the scores that were asked for came from: "file", "cache", "dns" or
            "assumed", by address.
    """

    def __init__(self, given: NetworkTable[int], assumed: Scored | Unknown) -> None:
        self.assumed = assumed
        self.origins: dict[str, str] = {}
        self._given = given
        self._known: dict[str, CachedScore] = {}

    def is_known(self, address: str) -> bool:
        """Whether the score of an IPv4 address is more than assumed."""
        self.known(address)
        return self.origins[address] != "assumed"

    def learn(self, address: str, reputation: Reputation, origin: str) -> None:
        """Take up a score, or that there is none; a failed lookup says nothing."""
        if isinstance(reputation, Scored | Unknown):
            self._enter(address, reputation, origin)

    def known(self, address: str) -> CachedScore:
        """The reputation of an IPv4 address."""
        known = self._known.get(address)
        if known is None:
            parsed = parse_address(address)
            assert parsed is not None, address
            score = self._given.match(parsed)
            if score is not None:
                return self._enter(address, Scored(score), "file")
            return self._enter(address, self.assumed, "assumed")
        return known

    def start(self, address: str) -> None:
        """Nothing: there is nothing more to be known."""

    async def lookup(self, address: str) -> Reputation:
        """As `known`."""
        return self.known(address).reputation

    def _enter(self, address: str, reputation: Reputation, origin: str) -> CachedScore:
        self.origins[address] = origin
        known = self._known[address] = CachedScore(reputation, 0.0, float("inf"), "cache")
        return known


def read_scores(path: Path) -> NetworkTable[int]:
    """Scores from a file: one `address-or-network,score` a line; `#` begins a comment.

    Raises:
        InputError: it cannot be read, or a line is something else.
        PermissionError: it must not be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'is no UTF-8 text'}") from error
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if content := line.partition("#")[0].strip():
            try:
                entries.append(_entry(content))
            except ValueError as error:
                raise InputError(
                    f"{path}:{number}: {content[:80]!a} is not an address or network, a comma and a score from 0 to 100"
                ) from error
    return NetworkTable(entries)


def _entry(text: str) -> tuple[Network, int]:
    """One line of a file of scores.

    Raises:
        ValueError: it is none.
    """
    who, _, score = (part.strip() for part in text.partition(","))
    address = parse_address(who)
    value = int(score)
    if not score.isdecimal() or not 0 <= value <= 100:
        raise ValueError(score)
    return ip_network(address or who, strict=False), value


def learn(scores: Scores, config: Config, clients: Iterable[str], wanted: Iterable[str], *, lookup: bool) -> str:
    """Take up what the daemon knows, and look up what it does not if that is asked for.

    Args:
        scores: to be added to.
        config: tells where the daemon is, and its budget.
        clients: all IPv4 addresses of clients.
        wanted: those of them whose score decides something.
        lookup: ask the zone about those whose score is not known.

    Returns:
        Why scores could not be looked up; empty if they could, or nobody asked for it.

    Raises:
        PermissionError: scores are to be looked up, and the running daemon's control socket denies access.
        BackendError: the daemon broke off.
    """
    # A zone that refuses is told in the result.
    logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
    source = open_source(config.reputation, time, _Unobserved(), None)
    if _restore(source, config):
        for address in clients:
            if not scores.is_known(address) and (known := source.known(address)):
                scores.learn(address, known.reputation, "cache")
    missing = [address for address in wanted if not scores.is_known(address)]
    if not missing:
        return ""
    try:
        daemon = find_daemon(control_paths(config))
    except (NoDaemonError, ConfigError):
        return asyncio.run(_look_up(scores, source, missing)) if lookup else ""
    except PermissionError:
        if lookup:
            raise
        return ""
    with daemon:
        return _ask_daemon(scores, daemon, missing, lookup=lookup)


def _restore(source: ScoreSource, config: Config) -> bool:
    """Take up what a daemon saved, if it may be read: scores, and how much of the budget is used."""
    for path in _state_files(config):
        try:
            with path.open(encoding="utf-8") as file:
                source.restore(line.rstrip("\n") for line in file)
        except (OSError, ValueError):
            continue
        return True
    return False


def _state_files(config: Config) -> Iterator[Path]:
    if not config.state_directory:
        yield SYSTEM_STATE / STATE_FILE
    try:
        yield state_directory(config) / STATE_FILE
    except ConfigError:
        return


def _ask_daemon(scores: Scores, daemon: ControlClient, addresses: list[str], *, lookup: bool) -> str:
    failures: Counter[str] = Counter()
    for address in addresses:
        answer = daemon.score(address) if lookup else daemon.client(address)
        if answer.get("reputation") == "scored" and isinstance(answer.get("score"), int):
            scores.learn(address, Scored(answer["score"]), "dns" if answer.get("source") == "dns" else "cache")
        elif answer.get("reputation") == UNKNOWN.name:
            scores.learn(address, UNKNOWN, "dns" if answer.get("source") == "dns" else "cache")
        else:
            failures[str(answer.get("reputation"))] += 1
    return _in_words(failures) if lookup else ""


async def _look_up(scores: Scores, source: ScoreSource, addresses: list[str]) -> str:
    """Ask the zone without a daemon."""
    failures: Counter[str] = Counter()
    slots = asyncio.Semaphore(AT_ONCE)

    async def look_up(address: str) -> None:
        async with slots:
            reputation = await source.lookup(address)
        if isinstance(reputation, Scored | Unknown):
            scores.learn(address, reputation, "dns")
        else:
            failures[f"{reputation.name}: {reputation.detail}"] += 1

    await asyncio.gather(*map(look_up, addresses))
    await source.close()
    return _in_words(failures)


def _in_words(failures: Counter[str]) -> str:
    if not failures:
        return ""
    return f"{failures.total():,} of the scores could not be looked up ({failures.most_common(1)[0][0]})"


class _Unobserved:
    """Nobody measures a command (`ports.LookupObserver`)."""

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Nothing."""

    def cache(self, result: str) -> None:
        """Nothing."""
