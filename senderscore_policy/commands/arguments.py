"""Arguments that several commands take. Their ValueErrors are shown to the user (`cli.Parser`)."""

import argparse
import contextlib
import sys
from collections.abc import Callable
from ipaddress import ip_network

from senderscore_policy.config.load import read
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import config_file
from senderscore_policy.policy.clients import parse_address, unlogged


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


def network(text: str) -> str:
    """A client's address, or a network, in its canonical form."""
    bare = unlogged(text)
    if address := parse_address(bare):
        return str(address)
    with contextlib.suppress(ValueError):
        found = ip_network("" if "%" in bare else bare)
        return str(found if found.num_addresses > 1 else parse_address(str(found[0])))
    raise ValueError(f"{text!r} is not an IP address")


def client(text: str) -> str:
    """A client's address, or an IPv6 network that is counted as one client, in its canonical form."""
    return found if ":" in (found := network(text)) else address(text)


def address(text: str) -> str:
    """A client's address in its canonical form."""
    if "/" in (found := network(text)):
        raise ValueError(f"{text!r} is a network, not an IP address")
    return found


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
