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
from senderscore_policy.monitoring.statistics import Metrics
from senderscore_policy.policy.clients import Network, NetworkTable, parse_address
from senderscore_policy.policy.reputation import UNKNOWN, Scored, Unknown
from senderscore_policy.reputation.source import ScoreSource, open_source

SYSTEM_STATE: Final = Path("/var/lib/senderscore-policy")
"""Where the packaged service keeps its state."""
AT_ONCE: Final = 50
"""Lookups under way at a time."""
KNOWN, FILE, ASSUMED = "known", "file", "assumed"
"""Origins of a score: the daemon or the zone, --scores, --assume."""


class Scores:
    """What is known of each client: what a file says, what the daemon or the zone says, else what is assumed."""

    def __init__(self, given: NetworkTable[Scored | Unknown], assumed: Scored | Unknown) -> None:
        self._assumed = assumed
        self._given = given
        self._learned: dict[str, Scored | Unknown] = {}
        self._source: ScoreSource | None = None

    def find(self, address: str) -> tuple[Scored | Unknown, str]:
        """The score of a client, and its origin."""
        parsed = parse_address(address)
        given = self._given.match(parsed) if parsed else None
        if given is not None:
            return given, FILE
        saved = self._source.known(address) if self._source else None
        learned = self._learned.get(address) or (saved and saved.reputation)
        return (learned, KNOWN) if isinstance(learned, Scored | Unknown) else (self._assumed, ASSUMED)

    def learn(self, config: Config, wanted: Iterable[str], *, lookup: bool) -> str:
        """Learn what the daemon knows, and with `lookup` ask the zone for the rest of the addresses in `wanted`.

        The result says why scores are missing; or it is empty.

        Raises:
            PermissionError: the running daemon's control socket denies access to `lookup`.
            BackendError: the daemon closed the connection.
        """
        # The result reports a zone that refuses.
        logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
        source = self._source = open_source(config.reputation, time, Metrics(), None)
        _restore(source, config)
        missing = [address for address in wanted if self.find(address)[1] == ASSUMED]
        if not missing:
            return ""
        answers: list[Scored | Unknown | str] = []
        try:
            with find_daemon(config) as daemon:
                answers += (_answer_of(daemon, address, lookup=lookup) for address in missing)
        except (NoDaemonError, ConfigError):
            if lookup:
                answers += asyncio.run(_look_up(source, missing))
        except PermissionError:
            if lookup:
                raise
            return "the daemon's scores are not accessible: run this as root"
        failures = Counter(answer for answer in answers if isinstance(answer, str))
        found = zip(missing, answers, strict=False)
        self._learned = {address: answer for address, answer in found if not isinstance(answer, str)}
        if not lookup or not failures:
            return ""
        return f"{counted(failures.total(), 'score')} could not be looked up ({failures.most_common(1)[0][0]})"


def _answer_of(daemon: ControlClient, address: str, *, lookup: bool) -> Scored | Unknown | str:
    """A score or its known absence, or why there is none."""
    answer = daemon.score(address) if lookup else daemon.client(address)
    reputation: str = answer["reputation"]
    if reputation == Scored.name:
        return Scored(answer["score"])
    return UNKNOWN if reputation == UNKNOWN.name else reputation


async def _look_up(source: ScoreSource, addresses: list[str]) -> list[Scored | Unknown | str]:
    """Ask the zone without a daemon."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def look_up(address: str) -> Scored | Unknown | str:
        async with slots:
            found = await source.lookup(address)
        return found if isinstance(found, Scored | Unknown) else f"{found.name}: {found.detail}"

    answers = await asyncio.gather(*map(look_up, addresses))
    await source.close()
    return answers


def _restore(source: ScoreSource, config: Config) -> None:
    """Load what a daemon saved, if it is accessible: scores, and how much of the budget is used."""
    directories = [] if config.state_directory else [SYSTEM_STATE]
    with suppress(ConfigError):
        directories.append(state_directory(config))
    for directory in directories:
        with suppress(OSError, ValueError), (directory / "scores").open(encoding="utf-8") as file:
            source.restore(line.rstrip("\n") for line in file)
            return


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
        # A spreadsheet writes semicolons where the comma is the decimal sign.
        sign = "," if "," in content else ";"
        values = [value.strip() for value in next(csv.reader([content], delimiter=sign), [])]
        if "client" in values and "score" in values:
            columns = values
        elif content:
            fields = dict(zip(columns, values, strict=False))
            origin, who, score = fields.get("origin"), fields.get("client", ""), fields.get("score", "")
            try:
                if origin in {None, KNOWN, FILE}:
                    network = ip_network(parse_address(who) or who, strict=False)
                    entries.append((network, UNKNOWN if origin and not score else reputation_of(score)))
            except ValueError as error:
                raise InputError(
                    f"{path}:{number}: {content[:80]!a} is not an address or network, a comma and a score from 0 to "
                    '100 or "unscored"'
                ) from error
    return NetworkTable(entries)


def reputation_of(text: str) -> Scored | Unknown:
    """A score from 0 to 100, or "unscored"; raises ValueError if the text is something else."""
    if text == "unscored":
        return UNKNOWN
    if text.isdecimal() and int(text) <= 100:
        return Scored(int(text))
    raise ValueError(f"{text!r} is neither a score from 0 to 100 nor unscored")
