"""A real Postfix with a configuration, a queue and a log of its own, and a client to speak SMTP to it."""

import os
import pwd
import re
import shutil
import smtplib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from waiting import eventually, free_port

# Postfix's master starts as root only.
_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]

_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
inet_interfaces = 127.0.0.1
myhostname = mx.example.org
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
relay_domains = example.org
relay_transport = discard:
default_transport = discard:
smtpd_peername_lookup = no
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_relay_restrictions = reject_unauth_destination
smtpd_end_of_data_restrictions =
    permit_mynetworks,
    check_policy_service {{ inet:127.0.0.1:{policy_port}, timeout=5s, try_limit=1, default_action=DUNNO }}
# As fast as it goes: no throttling of a single busy client.
smtpd_client_event_limit_exceptions = static:all
smtpd_error_sleep_time = 0
in_flow_delay = 0
"""

_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running Postfix that asks the policy server at 127.0.0.1:`policy_port` at end of data.

    Mail to example.org is accepted and discarded. Every client on this host may say by XCLIENT who it is.
    """

    directory: Path
    port: int

    @classmethod
    def start(cls, policy_port: int) -> Self:
        """Start it; it accepts connections when this returns.

        Args:
            policy_port: of the policy server, which need not run.

        Raises:
            RuntimeError: it does not start; with its log.
        """
        # Not below pytest's own directories: those are closed to the user that Postfix drops its rights to.
        directory = Path(tempfile.mkdtemp(prefix="postfix-"))
        server = cls(directory, free_port())
        (directory / "main.cf").write_text(_MAIN_CF.format(directory=directory, policy_port=policy_port))
        (directory / "master.cf").write_text(_MASTER_CF.format(port=server.port))
        (directory / "queue").mkdir()
        (directory / "data").mkdir()
        directory.chmod(0o755)
        _as_root("chown", "-R", "root:root", str(directory))
        _as_root("chown", str(pwd.getpwnam("postfix").pw_uid), str(directory / "data"))
        started = _as_root("postfix", "-c", str(directory), "start", check=False)
        if started.returncode:
            raise RuntimeError(f"Postfix does not start: {started.stderr}{server.log}")
        return server

    def stop(self) -> None:
        """Stop it and remove what it had."""
        _as_root("postfix", "-c", str(self.directory), "stop", check=False)
        _as_root("rm", "-rf", str(self.directory))

    @property
    def service(self) -> str:
        """Its smtpd, as master.cf names it."""
        return f"127.0.0.1:{self.port}/inet"

    def configure(self, *options: str) -> None:
        """Change its configuration by postconf(1), and let it read that; the next client meets the new one."""
        _as_root("postconf", "-c", str(self.directory), *options)
        # `postfix reload` only sends a signal: until master has taken it, it starts smtpd as before.
        said = "reload -- version"
        before = self.log.count(said)
        _as_root("postfix", "-c", str(self.directory), "reload")
        eventually(lambda: self.log.count(said) > before, f"another {said!r} in the mail log")

    @property
    def log(self) -> str:
        """Its mail log so far."""
        return _as_root("cat", str(self.directory / "mail.log"), check=False).stdout

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """The first match of `pattern` in the mail log, which Postfix writes behind its answers."""
        return eventually(lambda: re.search(pattern, self.log), f"{pattern!r} in the mail log")

    def client(self, address: str) -> "SmtpClient":
        """A connection that Postfix takes to come from `address`, an IPv4 or IPv6 address."""
        client = SmtpClient("127.0.0.1", self.port, timeout=30)
        client.become(address)
        return client


class SmtpClient(smtplib.SMTP):
    """Sends messages, many over one connection, as the client that XCLIENT makes it."""

    def become(self, address: str) -> None:
        """Be another client from now on (Postfix XCLIENT_README)."""
        self.ehlo("mx.example.net")
        value = f"IPV6:{address}" if ":" in address else address
        code, text = self.docmd("XCLIENT", f"ADDR={value} NAME=mx.example.net")
        assert code == 220, text
        self.ehlo("mx.example.net")

    def deliver(self, recipients: int = 1) -> str:
        """Send one message and return the reply to its end of data, as "250 2.0.0 Ok: queued as …"."""
        self.mail("sender@example.net")
        for number in range(recipients):
            self.rcpt(f"user{number}@example.org")
        code, text = self.data("Subject: a test\r\n\r\nA line.\r\n")
        return f"{code} {text.decode()}"


def missing_for_postfix() -> str | None:
    """Why Postfix cannot be started here; None if it can."""
    if shutil.which("postfix", path="/usr/sbin:/usr/local/sbin") is None:
        return "Postfix is not installed"
    if _ROOT and subprocess.run([*_ROOT, "true"], capture_output=True, check=False).returncode:
        return "Postfix can be started by root only, and sudo asks for a password"
    return None


def _as_root(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run([*_ROOT, *command], env=path, capture_output=True, text=True, check=check, timeout=60)
