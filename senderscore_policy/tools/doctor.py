"""Every check that a stuck administrator needs, one after the other."""

import os
from collections.abc import Iterator
from pathlib import Path

from senderscore_policy.config.advice import warnings_of
from senderscore_policy.config.model import Config
from senderscore_policy.errors import BackendError
from senderscore_policy.tools.doctor_daemon import (
    Running,
    daemon_findings,
    look_at_daemon,
    no_daemon,
    policy_findings,
)
from senderscore_policy.tools.doctor_findings import Finding, Status
from senderscore_policy.tools.doctor_memcached import memcached_findings
from senderscore_policy.tools.doctor_postconf import Postfix, read_postfix
from senderscore_policy.tools.doctor_postfix import postfix_findings
from senderscore_policy.tools.doctor_traffic import clock_finding, traffic_findings
from senderscore_policy.tools.doctor_zone import zone_findings


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
    for warning in warnings_of(config):
        yield Finding("configuration", Status.WARN, warning, "see policy.toml(5)")
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
