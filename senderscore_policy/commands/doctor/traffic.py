"""Checks of `doctor`: is the daemon asked while Postfix takes mail? And can its clock be believed?"""

import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.daemon import Running
from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.postconf import Postfix
from senderscore_policy.errors import BackendError, InputError
from senderscore_policy.maillog.messages import read_logs
from senderscore_policy.maillog.timestamps import as_text
from senderscore_policy.policy.durations import span

HOUR: Final = 3600.0
TAIL: Final = 16 * 1024 * 1024
"""Bytes at the end of a mail log that are read, about 100,000 lines."""
MAIL_LOGS: Final = (Path("/var/log/mail.log"), Path("/var/log/maillog"))
"""Of Debian, and of Red Hat and SUSE."""
_PATIENCE: Final = 30.0
_JOURNAL: Final = ("journalctl", "--quiet", "--no-pager", "--output=json")


def traffic_findings(running: Running, postfix: Postfix | None) -> Iterator[Finding]:
    """Compare the daemon's last request with what the mail log says.

    Args:
        running: the daemon.
        postfix: the instance that should ask it; None: it is not known.
    """
    now, last = time.time(), running.own["last_request_at"]
    if last is not None and now - last < HOUR:
        yield Finding("requests", Status.OK, f"Postfix asked last {span(now - last)} ago")
        return
    since = max(now - HOUR, running.status["service"]["started_at"])
    never = f"no request since {as_text(since)}"
    if postfix is None:
        yield Finding("requests", Status.WARN, f"{never}, and no mail log to compare with")
        return
    try:
        # What Postfix took before its configuration was changed says nothing of the new one. Logs tell whole seconds.
        since = math.floor(max(since, postfix.changed_at))
        log, messages = _messages_since(postfix, since)
    except (BackendError, InputError, OSError) as error:
        detail = f"{never}; whether Postfix takes mail could not be seen: {error}"
        remedy = "run doctor as root or as a member of the group adm" if isinstance(error, PermissionError) else ""
        yield Finding("requests", Status.WARN, detail, remedy)
        return
    if not messages:
        yield Finding("requests", Status.OK, f"{never}; nor did Postfix take mail from outside, says {log}")
        return
    yield Finding(
        "requests",
        Status.FAIL,
        f"{never}, but Postfix took {messages} messages from outside since {as_text(since)}, says {log}",
        "postfix reload, if main.cf is right; see the other checks of Postfix",
    )


def _messages_since(postfix: Postfix, since: float) -> tuple[str, int]:
    """Where the mail log is, and how many messages of clients that are neither local nor authenticated are in it.

    Raises:
        BackendError: there is none.
        InputError: it is none.
        OSError: it cannot be read.
    """
    with tempfile.NamedTemporaryFile(prefix="senderscore-policy-") as copy:
        path = _log_file(postfix, since)
        if path is None:
            name = "the journal"
            copy.write(_journal(postfix, since))
        else:
            name = str(path)
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - TAIL))
                copy.write(log.read(TAIL))
        copy.flush()
        if not copy.tell():
            return name, 0
        try:
            traffic = read_logs([copy.name], lambda _: None)
        except InputError as error:
            raise InputError(str(error).replace(copy.name, name)) from error
    outside = [not who.authenticated and not _is_local(who.address) for who in traffic.who]
    pairs = zip(traffic.times, traffic.senders, strict=True)
    return name, sum(1 for at, sender in pairs if at >= since and outside[sender])


def _log_file(postfix: Postfix, since: float) -> Path | None:
    """The mail log; None: the journal is to be asked.

    A file that syslog has not written to since then may be left over from the days before the journal.
    """
    if configured := postfix.main.get("maillog_file"):
        return Path(configured)
    files = [path for path in MAIL_LOGS if path.exists()]
    fresh = [path for path in files if path.stat().st_mtime >= since]
    return next(iter(fresh if fresh or shutil.which(_JOURNAL[0]) else files), None)


def _journal(postfix: Postfix, since: float) -> bytes:
    """What Postfix wrote to the journal since then, as JSON."""
    if shutil.which(_JOURNAL[0]) is None:
        raise BackendError(f"neither {' nor '.join(map(str, MAIL_LOGS))} nor a journal")
    names = {each.get("syslog_name", "postfix") for each in (postfix.main, *(s.parameters for s in postfix.smtpd))}
    programs = [f"--identifier={name}/{program}" for name in sorted(names) for program in ("smtpd", "qmgr")]
    command = [*_JOURNAL, *programs, f"--since=@{since:.0f}"]
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system
            command, capture_output=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{command[0]} did not end within {_PATIENCE:g} s") from error
    if done.returncode:
        raise BackendError(done.stderr.decode(errors="replace").strip() or f"{command[0]} failed")
    return done.stdout[-TAIL:]


def _is_local(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def clock_finding(*, shared: bool) -> Finding:
    """Whether the hosts of a site agree on the time, as far as this host knows.

    Args:
        shared: counters go by the wall clock, as other hosts' daemons count on them too.
    """
    if not shared:
        return Finding("clock", Status.OK, "counters in memory go by the monotonic clock, whatever the time is")
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603
        answer = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        answer = ""
    if answer == "yes":
        return Finding("clock", Status.OK, "synchronized")
    known = "is not synchronized" if answer == "no" else "may not be synchronized: timedatectl does not say"
    return Finding(
        "clock",
        Status.WARN,
        f"the clock {known}; hosts that share counters must agree to within 5 s",
        "run chrony or systemd-timesyncd on every host",
    )
