"""Arguments that several commands take."""

import argparse
import contextlib
from collections.abc import Callable
from ipaddress import IPv6Network
from pathlib import Path
from typing import TypeVar

from senderscore_policy.config.load import load
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import CONFIG_FILE, config_file
from senderscore_policy.policy.clients import parse_address

V = TypeVar("V")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add -c FILE."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the configuration file (default: {CONFIG_FILE}, and if there is none the built-in defaults)",
    )


def configuration(args: argparse.Namespace) -> Config:
    """The configuration that -c names.

    Raises:
        ConfigError: it cannot be read, or has mistakes.
    """
    return load(config_file(args.config))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_clients(parser: argparse.ArgumentParser) -> None:
    """Add one or more client addresses."""
    parser.add_argument(
        "clients", metavar="IP", nargs="+", type=checked(client), help="the client's address; several are allowed"
    )


def client(text: str) -> str:
    """A client's address in its canonical form.

    Args:
        text: an address, or an IPv6 network in the form that `get` shows for a client.

    Raises:
        ValueError: it is neither.
    """
    address = parse_address(text)
    if address is None and "/" in text:
        with contextlib.suppress(ValueError):
            address = IPv6Network(text).network_address
    if address is None:
        raise ValueError(f"{text!r} is not an IP address")
    return str(address)


def checked(read: Callable[[str], V]) -> Callable[[str], V]:
    """For argparse: a reader of texts whose ValueError is shown to the user as it is."""

    def convert(text: str) -> V:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
