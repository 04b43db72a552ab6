"""The command `check-config`."""

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from senderscore_policy.commands.arguments import add_json
from senderscore_policy.commands.output import say, say_json, table
from senderscore_policy.config.load import DEFAULT_FILE, read
from senderscore_policy.config.paths import CONFIG_FILE, config_file
from senderscore_policy.config.warnings import warnings_of
from senderscore_policy.policy.status import limit_as_json

ITEMS_SHOWN: Final = 5  # of a list, to people


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Check the configuration before the daemon reads it.

Every mistake is shown with its line and key, and what is allowed; the exit status is 78 then. A file without a mistake
is shown as far as it differs from the defaults, with its tiers, and with warnings about what may surprise."""
    parser.epilog = """examples:
  senderscore-policy check-config
  senderscore-policy check-config ./policy.toml
  senderscore-policy check-config --defaults > policy.toml"""
    add_json(parser)
    add = parser.add_argument
    add("--quiet", action="store_true", help="print mistakes and warnings only")
    add("--defaults", action="store_true", help="print the default file instead, which explains every option")
    add("file", metavar="FILE", nargs="?", type=Path, help="the file to check, as -c FILE")


def run(args: argparse.Namespace) -> int:
    if args.defaults:
        say(DEFAULT_FILE.read_text(encoding="utf-8").rstrip("\n"))
        return 0
    path = config_file(args.file or args.config)
    reading = read(path)
    if reading.error:
        if args.json:
            say_json({"ok": False, "errors": reading.error.problems, "settings": {}, "tiers": [], "warnings": []})
        raise reading.error
    warnings = [f"{reading.place(path)}: {text}" for path, text in warnings_of(reading.config)]
    settings = dict(changed(reading.document))
    limits = [(limit.name, limit_as_json(limit.messages)) for limit in reading.config.tiers.limits]
    if args.json:
        tiers = [{"tier": name, "limit": limit} for name, limit in limits]
        say_json({"ok": True, "errors": [], "settings": settings, "tiers": tiers, "warnings": warnings})
        return 0
    if not args.quiet:
        say(f"{path}: no mistakes" if path else f"there is no {CONFIG_FILE}: the built-in defaults apply")
        if settings:
            say("\ndifferent from the defaults:")
            say("\n".join(f"  {key} = {as_toml(value)}" for key, value in settings.items()))
        column = f"messages/{reading.config.counters.window_of_time()}"
        say("\n" + table(["tier", column], limits, {column}))
    for warning in warnings:
        say(f"{'' if args.quiet else chr(10)}warning: {warning}")
    return 0


def changed(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each option whose value is not the default, with its path."""
    defaults = tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    for key, value in document.items():
        default = defaults.get(key, {})
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", each) for name, each in value.items() if each != default.get(name))
        elif key in {"override", "tier"}:
            yield from ((f"{key}[{n}]", each) for n, each in enumerate(value, 1) if value != default)
        elif value != default:
            yield key, value


def as_toml(value: object) -> str:
    """A value as TOML, a long list cut."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {as_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, list):
        more = f", … {len(value) - ITEMS_SHOWN} more" if len(value) > ITEMS_SHOWN else ""
        return f"[{', '.join(map(as_toml, value[:ITEMS_SHOWN]))}{more}]"
    return json.dumps(value, ensure_ascii=False)
