"""Arguments that several commands take. Their ValueErrors are shown to the user (`cli.Parser`)."""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from ipaddress import IPv6Network
from typing import Final

from senderscore_policy.config.load import read
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import config_file
from senderscore_policy.policy.clients import parse_address

_IN_BRACKETS: Final = re.compile(r"[^\s\[\]]*\[(?:IPv6:)?([^\[\]]+)\](?::[0-9]+)?", re.IGNORECASE)
_LABEL: Final = re.compile(r"(?:client|client_address|address|ip)=", re.IGNORECASE)


def configuration(args: argparse.Namespace) -> Config:
    """The valid part of the configuration; a line on stderr says that there are mistakes.

    Raises:
        ConfigError: the file that -c names cannot be read.
    """
    reading = read(config_file(args.config))
    if reading.error:
        if reading.error.__cause__ and args.config:
            raise reading.error
        first, *more = reading.error.problems
        count = f" (and {len(more)} more mistakes)" if more else ""
        sys.stderr.write(f"senderscore-policy: going on without what is wrong in the configuration: {first}{count}\n")
    return reading.config


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def client(text: str) -> str:
    """A client's address, or an IPv6 network that is counted as one client, in its canonical form."""
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


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isdecimal() and text.isascii() and len(text) <= len(str(high)) and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"{text!r} is not a whole number from {low} to {high}")

    return read


def seconds(low: float) -> Callable[[str], float]:
    """Reads a number of seconds, an hour at most."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (number := float(text)) <= 3600:
                return number
        raise ValueError(f"{text!r} is not a number of seconds from {low:g} to 3600")

    return read
