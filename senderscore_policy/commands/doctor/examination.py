"""Every check that a stuck administrator needs, one after the other."""

import argparse
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from senderscore_policy.commands.arguments import add_json, address
from senderscore_policy.commands.doctor.daemon import Running, daemon_findings, daemon_of, policy_findings
from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding
from senderscore_policy.commands.doctor.memcached import memcached_findings
from senderscore_policy.commands.doctor.postconf import BrokenPostfixError, read_postfix
from senderscore_policy.commands.doctor.postfix import permitted_networks, postfix_findings
from senderscore_policy.commands.doctor.traffic import clock_finding, requests_finding, traffic_findings, was_asked
from senderscore_policy.commands.doctor.zone import TEST_ADDRESS, zone_findings
from senderscore_policy.commands.output import Part, console, in_terminal, say, say_json, say_paragraph
from senderscore_policy.config.endpoints import Endpoint
from senderscore_policy.config.load import read
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import config_file
from senderscore_policy.config.warnings import warnings_of
from senderscore_policy.errors import BackendError


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    given: Path | None = args.config
    path = config_file(given)
    config, problems = _configuration(path)
    running, findings = daemon_of(config)
    if running and given is None:
        path = running.own["file"] and Path(running.own["file"])
        config, problems = _configuration(path)
    yield from daemon_findings(running, path) if running else findings
    yield from problems
    for key, text in warnings_of(config):
        yield Finding("configuration", WARN, f"{key}: {text}", "see senderscore-policy.toml(5)")
    served = running.served if running else list(config.listen.policy)
    yield from policy_findings(served)
    yield from _postfix(args.postfix_config, running, served, config)
    yield from memcached_findings(config.counters)
    yield from zone_findings(config.reputation, args.address)
    yield clock_finding(shared=config.counters.store == "memcached")


def _configuration(path: Path | None) -> tuple[Config, list[Finding]]:
    """What is valid in the configuration, and what is wrong with it."""
    reading = read(path)
    problems = reading.error.problems if reading.error else []
    if reading.error and isinstance(reading.error.__cause__, PermissionError):
        return reading.config, [Finding("configuration", WARN, problem, "run doctor as root") for problem in problems]
    remedy = f"correct it; then: senderscore-policy check-config -c {path}"
    return reading.config, [Finding("configuration", FAIL, problem, remedy) for problem in problems]


def _postfix(where: Path | None, running: Running | None, served: list[Endpoint], config: Config) -> Iterator[Finding]:
    try:
        postfix = read_postfix(where)
    except BackendError as error:
        yield _unread(error)
        if running:
            yield requests_finding(running, None, None)
        return
    yield from map(_unread, postfix.unread)
    yield from postfix_findings(postfix, served, config, asked=was_asked(running, postfix))
    yield from traffic_findings(running, postfix, permitted_networks(postfix, served))


def _unread(error: BackendError) -> Finding:
    if isinstance(error, BrokenPostfixError):
        return Finding("postfix", FAIL, f"Postfix cannot read its configuration: {error}", "correct that line")
    denied = "Permission denied" in str(error)
    remedy = "run doctor as root" if denied else "name the directory of its configuration with --postfix-config"
    return Finding("postfix", WARN, f"not looked at: {error}", remedy)


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Check everything that limiting mail by SenderScore depends on, one line for each check.

OK    nothing to do
WARN  it works, but something may surprise, or could not be seen
FAIL  it does not do its work; the exit status is 69 then

It looks at the daemon and its state, at what Postfix's main.cf and master.cf make of it, at the mail log, at
memcached, at the clock, and asks the score zone, whatever the daemon makes of the zone at the time. Without -c it
reads the file of the running daemon. Users other than root get the checks that need no privilege."""
    parser.epilog = f"""examples:
  senderscore-policy doctor
  senderscore-policy doctor 192.0.2.75
  senderscore-policy doctor --json --postfix-config /etc/postfix-in

A healthy zone has no entry for {TEST_ADDRESS}, and a SOA record that tells it from a misspelt one."""
    add_json(parser)
    instance = "the configuration of the Postfix instance to look at (default: that of postconf)"
    parser.add_argument("--postfix-config", metavar="DIR", type=Path, help=instance)
    about = f"the client to ask the zone about (default: {TEST_ADDRESS})"
    parser.add_argument("address", metavar="IP", nargs="?", default=TEST_ADDRESS, type=_address, help=about)


def _address(text: str) -> str:
    if ":" in (found := address(text)):
        raise ValueError(f"{text!r} is not an IPv4 address, and the zone has no others")
    return found


def _show(finding: Finding) -> None:
    """Print a finding: one line, or in a terminal a paragraph and one more for the remedy."""
    style = {OK: "green", WARN: "yellow", FAIL: "red"}[finding.status]
    head: list[Part] = [(f"{finding.status:<6}", style), f"{finding.check:<14} "]
    # A narrow terminal has no room for two columns.
    text, indent = finding.detail, 2 if in_terminal() and console().width < 60 else 21
    if finding.remedy and not in_terminal():
        text += f"{'' if text.endswith(('?', '.')) else '.'} Remedy: {finding.remedy}"
    say_paragraph(text, head=head, indent=indent)
    if not finding.remedy or not in_terminal():
        return
    lines = [finding.remedy]
    if finding.remedy.startswith("postconf "):
        # A shell joins these lines again, within double quotes too.
        width = console().width - indent - 2
        lines = textwrap.wrap(finding.remedy, width, break_long_words=False, break_on_hyphens=False)
        lines[:-1] = [f"{line} \\" for line in lines[:-1]]
    for number, line in enumerate(lines):
        say_paragraph(line, head=[] if number else ["      Remedy:"], indent=indent)


def run(args: argparse.Namespace) -> int:
    findings = []
    for finding in examine(args):
        findings.append(finding)
        if not args.json:
            _show(finding)
    counts = Counter(finding.status for finding in findings)
    if args.json:
        say_json([asdict(finding) for finding in findings])
    elif in_terminal():
        say(", ".join(f"{counts[status]} {status}" for status in (FAIL, WARN, OK) if status in counts))
    return os.EX_UNAVAILABLE if FAIL in counts else os.EX_OK
