"""The texts of a configuration file, each read into its value; a ValueError says what is allowed."""

import contextlib
import os
import pwd
import re
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from senderscore_policy.config.endpoints import HOST_NAME
from senderscore_policy.config.options import InvalidPartsError, absolute_path, refuse, shown
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.clients import Network
from senderscore_policy.policy.reply import ReplyTemplate
from senderscore_policy.policy.tiers import UNLIMITED

LONGEST_ZONE: Final = 237
"""Characters of a zone: a name has 253 (RFC 1035, 2.3.4), and "255.255.255.255." goes before it."""
LONGEST_KEY_PREFIX: Final = 100
"""A memcached key has 250 bytes at most, and client and bucket follow the prefix."""
LARGEST_LIMIT: Final = 1_000_000_000

_LIKE_A_NETWORK: Final = re.compile(r"[0-9A-Fa-f]*[.:][0-9A-Fa-f.:/]*")


def directory(text: str) -> str:
    return text and absolute_path(text, 'must be an absolute path such as "/var/lib/senderscore-policy", or ""')


def readable_file(text: str) -> str:
    """The absolute path of a file that exists and can be read, or nothing."""
    if text:
        absolute_path(text, 'must be an absolute path such as "/etc/senderscore-policy/ca.pem", or ""')
        _content(text)
    return text


def _content(path: str) -> bytes:
    """The content of a regular file; a fifo would wait for its writer."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path}: not a regular file")
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """Why a file cannot be read; for a lack of permission with the name of the user."""
    if not isinstance(error, PermissionError):
        return str(error.strerror)
    user: object = os.geteuid()
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(os.geteuid()).pw_name
    return f"{error.strerror}: the user {user} must be able to read it"


def zone(text: str) -> str:
    """A DNS zone's name, without its final dot."""
    name = text.removesuffix(".")
    if not HOST_NAME.fullmatch(name) or len(name) > LONGEST_ZONE:
        refuse(text, f'must be a DNS name of at most {LONGEST_ZONE} characters such as "score.senderscore.com"')
    return name


def key_prefix(text: str) -> str:
    if not re.fullmatch(r"[!-~]*", text) or len(text) > LONGEST_KEY_PREFIX:
        refuse(text, f"must be at most {LONGEST_KEY_PREFIX} printable ASCII characters without spaces")
    return text


def network(text: str) -> Network:
    """A network, or a single address."""
    address = text.partition("/")[0]
    try:
        first, found = ip_address(address), ip_network(text, strict=False)
    except ValueError:
        refuse(text, 'must be a network such as "192.0.2.0/24" or "2001:db8::/32", or an address')
    if "%" in text:
        refuse(text, "must be without a zone index")
    if isinstance(found, IPv6Network) and found.prefixlen >= 96 and (mapped := found.network_address.ipv4_mapped):
        plain = f"{mapped}/{found.prefixlen - 96}"
        raise ValueError(f'{shown(text)} is IPv4 in IPv6, which no client has as its address: write "{plain}"')
    if first != found.network_address:
        remedy = f'write "{found}", or "{address}" for this address alone'
        raise ValueError(f"{shown(text)} has bits set behind its prefix: {remedy}")
    return found


def networks_file(text: str) -> tuple[Network, ...] | None:
    """Read a file with one network a line; `#` begins a comment, and further words of a line are ignored.

    Postfix's cidr tables (cidr_table(5)) can be used without a change, unless they have conditions.

    Raises:
        InvalidPartsError: of some lines, each named.
    """
    if not text:
        return None
    path = absolute_path(text, 'must be an absolute path such as "/etc/senderscore-policy/newsletters.cidr", or ""')
    networks: dict[Network, None] = {}
    problems: list[tuple[str, str, str]] = []
    continued = False
    lines = _content(path).decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(None, 1)
        # A line that begins with a blank continues the one before it, if that is one of a table.
        if not words or (continued and line[0].isspace() and not _LIKE_A_NETWORK.fullmatch(words[0])):
            continue
        continued = len(words) > 1
        try:
            networks[_table_entry(words[0])] = None
        except ValueError as error:
            problems.append(("", "", f"{path}:{number}: {error}"))
    if problems:
        raise InvalidPartsError(problems, tuple(networks))
    return tuple(networks)


def _table_entry(word: str) -> Network:
    if word.lower() in {"if", "endif"} or word.startswith("!"):
        raise ValueError(f"{word[:5]}: conditions and negations of a cidr table are not supported: list the networks")
    return network(word)


def scores(text: str) -> tuple[int, int]:
    """The scores of a tier, lowest and highest, both included."""
    found = re.fullmatch(r"([0-9]{1,3})\s*-\s*([0-9]{1,3})", text)
    low, high = (int(found[1]), int(found[2])) if found else (1, 0)
    if not 0 <= low <= high <= 100:
        refuse(text, 'must be the lowest and the highest score of the tier, from 0 to 100, such as "71-80"')
    return low, high


def limit(value: object) -> float:
    """Messages per window, a TOML integer, or the word "unlimited"."""
    if value == "unlimited":
        return UNLIMITED
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_LIMIT:
        refuse(value, f'must be a whole number from 0 to {LARGEST_LIMIT}, or "unlimited"')
    return float(value)


def reply(text: str) -> str:
    """The template of a reply, rendered once for a trial."""
    try:
        ReplyTemplate(text)
    except ConfigError as error:
        raise ValueError(", ".join(error.problems)) from error
    return text
