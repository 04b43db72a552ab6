"""The command `doctor`."""

import argparse
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path

from senderscore_policy.cli.arguments import add_config, add_json, checked, client
from senderscore_policy.cli.output import say, say_json
from senderscore_policy.config.load import load
from senderscore_policy.config.paths import config_file
from senderscore_policy.tools.doctor import examine, exit_status
from senderscore_policy.tools.doctor_findings import Finding
from senderscore_policy.tools.doctor_zone import TEST_ADDRESS


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
    path = config_file(args.config)
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
