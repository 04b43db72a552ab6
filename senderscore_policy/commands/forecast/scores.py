"""The scores that a forecast uses: given in a file, known to the daemon, looked up, or assumed."""

import asyncio
import csv
import logging
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from senderscore_policy.commands.control import ControlClient, NoDaemonError, find_daemon
from senderscore_policy.commands.output import counted
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import state_directory
from senderscore_policy.errors import ConfigError, InputError
from senderscore_policy.policy.clients import Network, NetworkTable, parse_address
from senderscore_policy.policy.reputation import UNKNOWN, Reputation, Scored, Unknown
from senderscore_policy.reputation.source import ScoreSource, open_source

SYSTEM_STATE: Final = Path("/var/lib/senderscore-policy")
"""Where the packaged service keeps its state."""
STATE_FILE: Final = "scores"
AT_ONCE: Final = 50
"""Lookups under way at a time."""
KNOWN, FILE, ASSUMED = "known", "file", "assumed"
"""Origins of a score: the daemon or the zone, --scores, --assume."""


class Scores:
    """What is known of each client: what is given in a file, what is learned, else what is assumed."""

    def __init__(self, given: NetworkTable[Scored | Unknown], assumed: Scored | Unknown) -> None:
        self._assumed = assumed
        self._given = given
        self._learned: dict[str, Scored | Unknown] = {}

    def find(self, address: str) -> tuple[Scored | Unknown, str]:
        parsed = parse_address(address)
        given = self._given.match(parsed) if parsed else None
        if given is not None:
            return given, FILE
        learned = self._learned.get(address)
        return (self._assumed, ASSUMED) if learned is None else (learned, KNOWN)

    def learn(self, address: str, reputation: Reputation) -> None:
        """Keep a score, or that the client is unscored; a failed lookup says nothing."""
        if isinstance(reputation, Scored | Unknown):
            self._learned[address] = reputation


def read_scores(path: Path) -> NetworkTable[Scored | Unknown]:
    """Scores from a file.

    Each line is `address-or-network,score`, where the score may be `unscored` and `#` begins a comment. Or the file is
    what `forecast --csv` printed; its assumed scores do not count.

    Raises:
        InputError: the file cannot be read, or a line is something else.
        PermissionError: the file is not accessible.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except PermissionError as error:
        raise PermissionError(f"{path}: permission denied") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from error
    entries: list[tuple[Network, Scored | Unknown]] = []
    columns = ["client", "score"]
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        values = [value.strip() for value in next(csv.reader([content]), [])]
        if "client" in values and "score" in values:
            columns = values
        elif content:
            try:
                entries += _entry(dict(zip(columns, values, strict=False)))
            except ValueError as error:
                raise InputError(
                    f"{path}:{number}: {content[:80]!a} is not an address or network, a comma and a score from 0 to "
                    '100 or "unscored"'
                ) from error
    return NetworkTable(entries)


def _entry(fields: dict[str, str]) -> list[tuple[Network, Scored | Unknown]]:
    """The score in a line; nothing in a line of a forecast whose score was assumed."""
    origin, who, score = fields.get("origin"), fields["client"], fields.get("score", "")
    if origin not in {None, KNOWN, FILE}:
        return []
    network = ip_network(parse_address(who) or who, strict=False)
    return [(network, UNKNOWN if origin and not score else reputation_of(score))]


def reputation_of(text: str) -> Scored | Unknown:
    """A score from 0 to 100, or "unscored"; raises ValueError if the text is something else."""
    if text == "unscored":
        return UNKNOWN
    if text.isdecimal() and int(text) <= 100:
        return Scored(int(text))
    raise ValueError(f"{text!r} is neither a score from 0 to 100 nor unscored")


def learn(scores: Scores, config: Config, clients: Iterable[str], wanted: Iterable[str], *, lookup: bool) -> str:
    """Learn what the daemon knows, and with `lookup` ask the zone for the rest of what is wanted.

    `clients` are all IPv4 addresses, and `wanted` those whose score decides something. The result says why scores
    are missing; or it is empty.

    Raises:
        PermissionError: the running daemon's control socket denies access to `lookup`.
        BackendError: the daemon closed the connection.
    """
    # The result reports a zone that refuses.
    logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
    source = open_source(config.reputation, time, _Unobserved(), None)
    if _restore(source, config):
        for address in clients:
            if known := source.known(address):
                scores.learn(address, known.reputation)
    missing = [address for address in wanted if scores.find(address)[1] == ASSUMED]
    if not missing:
        return ""
    try:
        daemon = find_daemon(config)
    except (NoDaemonError, ConfigError):
        return asyncio.run(_look_up(scores, source, missing)) if lookup else ""
    except PermissionError:
        if lookup:
            raise
        return "the daemon's scores are not accessible: run this as root"
    with daemon:
        return _ask_daemon(scores, daemon, missing, lookup=lookup)


def _restore(source: ScoreSource, config: Config) -> bool:
    """Load what a daemon saved, if it is accessible: scores, and how much of the budget is used."""
    directories = [] if config.state_directory else [SYSTEM_STATE]
    with suppress(ConfigError):
        directories.append(state_directory(config))
    for directory in directories:
        with suppress(OSError, ValueError), (directory / STATE_FILE).open(encoding="utf-8") as file:
            source.restore(line.rstrip("\n") for line in file)
            return True
    return False


def _ask_daemon(scores: Scores, daemon: ControlClient, addresses: list[str], *, lookup: bool) -> str:
    failures: Counter[str] = Counter()
    for address in addresses:
        answer = daemon.score(address) if lookup else daemon.client(address)
        if answer.get("reputation") == Scored.name and isinstance(answer.get("score"), int):
            scores.learn(address, Scored(answer["score"]))
        elif answer.get("reputation") == UNKNOWN.name:
            scores.learn(address, UNKNOWN)
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
            scores.learn(address, reputation)
        else:
            failures[f"{reputation.name}: {reputation.detail}"] += 1

    await asyncio.gather(*map(look_up, addresses))
    await source.close()
    return _in_words(failures)


def _in_words(failures: Counter[str]) -> str:
    if not failures:
        return ""
    return f"{counted(failures.total(), 'score')} could not be looked up ({failures.most_common(1)[0][0]})"


class _Unobserved:
    """Ignores what a daemon would measure (`ports.LookupObserver`)."""

    def looked_up(self, outcome: str, seconds: float) -> None: ...

    def cache(self, result: str) -> None: ...
