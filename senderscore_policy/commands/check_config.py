"""The command `check-config`."""

import argparse

from senderscore_policy.commands.arguments import add_config, add_json
from senderscore_policy.commands.output import say, say_json, table
from senderscore_policy.config.load import DEFAULT_FILE, load
from senderscore_policy.config.paths import CONFIG_FILE, config_file
from senderscore_policy.config.warnings import warnings_of
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.status import limit_as_json


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Check the configuration before the daemon reads it.

Every mistake is shown with its line and key, and what would be allowed; the exit status is 78 then.
Without a mistake the tiers are shown, and what is allowed but may surprise."""
    parser.epilog = """examples:
  senderscore-policy check-config -c ./policy.toml
  senderscore-policy check-config --defaults > policy.toml"""
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--defaults", action="store_true", help="print the default file instead, in which every option is explained"
    )


def run(args: argparse.Namespace) -> int:
    """Check the configuration, or print the default file."""
    if args.defaults:
        say(DEFAULT_FILE.read_text(encoding="utf-8").rstrip("\n"))
        return 0
    path = config_file(args.config)
    try:
        config = load(path)
    except ConfigError as error:
        if args.json:
            say_json({"ok": False, "errors": error.problems, "tiers": [], "warnings": []})
        raise
    warnings = warnings_of(config)
    rules = config.tiers.limits
    if args.json:
        tiers = [{"tier": rule.name, "limit": limit_as_json(rule.messages)} for rule in rules]
        say_json({"ok": True, "errors": [], "tiers": tiers, "warnings": warnings})
        return 0
    say(f"{path}: no mistakes" if path else f"there is no {CONFIG_FILE}: the built-in defaults hold")
    say("")
    limits = f"messages/{config.counters.window_of_time()}"
    say(table(["tier", limits], [[rule.name, limit_as_json(rule.messages)] for rule in rules], {limits}))
    for warning in warnings:
        say(f"\nwarning: {warning}")
    return 0
