"""Arguments that several commands take."""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from ipaddress import IPv6Network
from pathlib import Path
from typing import Final, TypeVar

from senderscore_policy.config.load import read
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import CONFIG_FILE, config_file
from senderscore_policy.policy.clients import parse_address

V = TypeVar("V")

_IN_BRACKETS: Final = re.compile(r"[^\s\[\]]*\[(?:IPv6:)?([^\[\]]+)\](?::[0-9]+)?", re.IGNORECASE)
_LABEL: Final = re.compile(r"(?:client|client_address|address|ip)=", re.IGNORECASE)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        # Absent, it leaves the value of a -c before the command.
        default=argparse.SUPPRESS,
        help=f"the configuration file (default: {CONFIG_FILE}, and without it the built-in defaults)",
    )


def given_file(args: argparse.Namespace) -> Path | None:
    """The file that -c names; None without -c."""
    file: Path | None = getattr(args, "config", None)
    return file


def configuration(args: argparse.Namespace) -> Config:
    """The valid part of the configuration; a line on stderr says that there are mistakes.

    Raises:
        ConfigError: the file that -c names cannot be read.
    """
    reading = read(config_file(given_file(args)))
    if reading.error:
        if reading.error.__cause__ and given_file(args):
            raise reading.error
        first, *more = reading.error.problems
        count = f" (and {len(more)} more mistakes)" if more else ""
        sys.stderr.write(f"senderscore-policy: going on without what is wrong in the configuration: {first}{count}\n")
    return reading.config


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add -c FILE and --json."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def client(text: str) -> str:
    """A client's address, or an IPv6 network that is counted as one client, in its canonical form.

    Raises:
        ValueError: it is neither.
    """
    # People copy it from logs: "[192.0.2.75]", "client=mx.example.net[192.0.2.75],".
    bare = _LABEL.sub("", text.strip().rstrip(",;"), count=1)
    if found := _IN_BRACKETS.fullmatch(bare):
        bare = found[1]
    if address := parse_address(bare):
        return str(address)
    if "/" in bare and "%" not in bare:
        with contextlib.suppress(ValueError):
            return str(IPv6Network(bare))
    raise ValueError(f"{text!r} is not an IP address")


def checked(read: Callable[[str], V]) -> Callable[[str], V]:
    """For argparse: a reader of texts whose ValueError is shown to the user."""

    def convert(text: str) -> V:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def whole(low: int, high: int) -> Callable[[str], int]:

    def read(text: str) -> int:
        if text.isdecimal() and text.isascii() and len(text) <= len(str(high)) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"{text!r} is not a whole number from {low} to {high}")

    return checked(read)


def seconds(low: float) -> Callable[[str], float]:
    """For argparse: seconds, an hour at most."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (number := float(text)) <= 3600:
                return number
        raise ValueError(f"{text!r} is not a number of seconds from {low:g} to 3600")

    return checked(read)
