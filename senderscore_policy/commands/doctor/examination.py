"""Every check that a stuck administrator needs, one after the other."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path

from senderscore_policy.commands.arguments import add_config, add_json, checked, client, given_file
from senderscore_policy.commands.doctor.daemon import (
    Running,
    daemon_findings,
    look_at_daemon,
    no_daemon,
    policy_findings,
)
from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.memcached import memcached_findings
from senderscore_policy.commands.doctor.postconf import Postfix, read_postfix
from senderscore_policy.commands.doctor.postfix import postfix_findings
from senderscore_policy.commands.doctor.traffic import clock_finding, traffic_findings
from senderscore_policy.commands.doctor.zone import TEST_ADDRESS, zone_findings
from senderscore_policy.commands.output import say, say_json
from senderscore_policy.config.load import load
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import config_file
from senderscore_policy.config.warnings import warnings_of
from senderscore_policy.errors import BackendError


def examine(config: Config, file: Path | None, address: str, postfix_directory: Path | None) -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is known.

    Args:
        config: of the daemon.
        file: that it was read from; None: there is none.
        address: to ask the zone about, an IPv4 address.
        postfix_directory: of Postfix's configuration; None: the default instance.

    Raises:
        PermissionError: the daemon's control socket denies access.
    """
    running: Running | None = None
    try:
        running = look_at_daemon(config)
    except BackendError as error:
        yield no_daemon(error)
    else:
        yield from daemon_findings(running, file)
    for path, text in warnings_of(config):
        yield Finding("configuration", Status.WARN, f"{path}: {text}", "see senderscore-policy.toml(5)")
    served = running.served if running else list(config.listen.policy)
    yield from policy_findings(served)
    postfix: Postfix | None = None
    try:
        postfix = read_postfix(postfix_directory)
    except BackendError as error:
        yield Finding("postfix", Status.WARN, f"not looked at: {error}", "name its directory with --postfix-config")
    else:
        yield from postfix_findings(postfix, served, config)
    if running:
        yield from traffic_findings(running, postfix)
    yield from memcached_findings(config.counters)
    yield from zone_findings(config.reputation, address)
    yield clock_finding(shared=config.counters.store == "memcached")


def exit_status(findings: list[Finding]) -> int:
    """The exit status of `doctor`: 0 if nothing is worse than a warning."""
    return os.EX_UNAVAILABLE if any(finding.status is Status.FAIL for finding in findings) else os.EX_OK


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Check everything that limiting mail by SenderScore depends on, one line for each check.

OK    nothing to do
WARN  it works, but something may surprise, or could not be seen
FAIL  it does not do its work; the exit status is 69 then

It looks at the daemon and its state, at what Postfix's main.cf and master.cf make of it, at the mail log, at
memcached, at the clock, and asks the score zone one question, whatever the daemon makes of the zone at the time.
Run it as root: others may not see all of that."""
    parser.epilog = f"""examples:
  senderscore-policy doctor
  senderscore-policy doctor 192.0.2.75
  senderscore-policy doctor --json --postfix-config /etc/postfix-in

A healthy zone has no entry for {TEST_ADDRESS}, nor has a zone whose name is misspelt: an address that has a
score tells the two apart."""
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--postfix-config",
        metavar="DIR",
        type=Path,
        help="the configuration of the Postfix instance to look at (default: that of postconf)",
    )
    parser.add_argument(
        "address",
        metavar="IP",
        nargs="?",
        default=TEST_ADDRESS,
        type=checked(_address),
        help=f"the client to ask the zone about (default: {TEST_ADDRESS})",
    )


def _address(text: str) -> str:
    address = client(text)
    try:
        return str(IPv4Address(address))
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address, and the zone holds no others") from None


def run(args: argparse.Namespace) -> int:
    """Check."""
    path = config_file(given_file(args))
    findings = []
    for finding in examine(load(path), path, args.address, args.postfix_config):
        findings.append(finding)
        if not args.json:
            say(_line(finding))
    if args.json:
        say_json([asdict(finding) for finding in findings])
    return exit_status(findings)


def _line(finding: Finding) -> str:
    remedy = finding.remedy and f". Remedy: {finding.remedy}"
    return f"{finding.status:<5} {finding.check:<14} {finding.detail}{remedy}"
