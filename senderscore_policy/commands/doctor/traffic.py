"""Checks of `doctor`: the mail log against the requests of Postfix, and the clock."""

import re
import shutil
import subprocess
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.daemon import Running
from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding
from senderscore_policy.commands.doctor.postconf import Postfix
from senderscore_policy.errors import BackendError, InputError
from senderscore_policy.maillog.files import chunks_of
from senderscore_policy.maillog.messages import read_chunks
from senderscore_policy.maillog.timestamps import STAMP, Timestamps, as_text
from senderscore_policy.policy.clients import Network, parse_address
from senderscore_policy.policy.durations import span

HOUR: Final = 3600.0
TAIL: Final = 16 * 1024 * 1024  # bytes at the end of a mail log that are read, about 100,000 lines
MAIL_LOGS: Final = (Path("/var/log/mail.log"), Path("/var/log/maillog"))  # of Debian, and of Red Hat and SUSE
_PATIENCE: Final = 30.0
_JOURNAL: Final = ("journalctl", "--no-pager", "--output=short-iso")
_FAULT: Final = re.compile(
    rb"^(?:" + STAMP.pattern + rb") .*?/(?P<text>(?:smtpd|master)\[\d+\]: "
    rb"(?:(?:fatal|panic): .*|warning: (?:unknown smtpd restriction|restriction .*(?:must be|bad argument)|specify one"
    rb"|.*bad command startup).*|.*Server configuration (?:error|problem).*))$",
    re.MULTILINE,
)
"""Time and text of the lines that smtpd writes when its configuration keeps it from taking mail."""


@dataclass(frozen=True, slots=True)
class MailLog:
    """What the end of the mail log says; times are in seconds since the epoch."""

    name: str
    taken: Sequence[float]  # when Postfix took the messages that came by SMTP
    outside: Sequence[float]  # when it took those of clients that are neither local nor authenticated
    fault: tuple[float, str] | None  # the last fault of smtpd: when, and its words


def _read_mail_log(postfix: Postfix, permitted: Sequence[Network]) -> MailLog:
    """Read what Postfix logged since its configuration was changed, within a day.

    Clients in `permitted` are like local ones: Postfix does not ask about them.
    """
    since = int(max(postfix.changed_at, time.time() - 24 * HOUR))
    files = _log_files(postfix, since)
    name, text = (str(files[-1]), b"".join(map(_end_of, files))) if files else ("the journal", _journal(postfix, since))
    faults = [(at, words) for at, words in _faults(text) if at >= since]
    # What master says of a process that ended is less than what the process said.
    fault = max(faults, key=lambda each: (each[1].startswith("smtpd"), each[0]), default=None)
    if not re.search(rb"/(?:smtpd|o?qmgr)\[", text):
        return MailLog(name, (), (), fault)
    traffic = read_chunks([(name, time.time(), [text])])
    outside = [not who.authenticated and not _is_local(who.address, permitted) for who in traffic.who]
    pairs = [(at, outside[sender]) for at, sender in zip(traffic.times, traffic.senders, strict=True) if at >= since]
    return MailLog(name, [at for at, _ in pairs], [at for at, from_outside in pairs if from_outside], fault)


def _faults(text: bytes) -> Iterator[tuple[float, str]]:
    stamps = Timestamps(time.time() + HOUR, array("d"))
    for found in _FAULT.finditer(text):
        # Some dates do not exist.
        with suppress(ValueError, OverflowError):
            yield stamps.read(found), found["text"].decode(errors="replace")


def traffic_findings(running: Running | None, postfix: Postfix, permitted: Sequence[Network]) -> Iterator[Finding]:
    """Compare the mail log with the requests that the daemon received; None: it does not run, or was not seen."""
    log = None
    try:
        log = _read_mail_log(postfix, permitted)
        yield _fault(log, postfix)
    except (BackendError, InputError, OSError) as error:
        remedy = "see where maillog_file or syslog sends the log, and look for fatal and warning of smtpd there"
        if isinstance(error, PermissionError):
            remedy = "run doctor as root or as a member of the group adm"
        yield Finding("log", WARN, f"not looked at: {error}", remedy)
    if running is not None:
        yield requests_finding(running, postfix, log)


def _fault(log: MailLog, postfix: Postfix) -> Finding:
    if log.fault is None:
        return Finding("log", OK, f"smtpd has not reported a fault of its configuration, according to {log.name}")
    at, words = log.fault
    detail = f'"{words}" at {as_text(at)}, according to {log.name}'
    remedy = f"correct main.cf or master.cf; then: {postfix.instances[0].reload}"
    if any(taken > at for taken in log.taken):
        return Finding("log", WARN, f"{detail}; Postfix has taken messages since", remedy)
    return Finding("log", FAIL, f"{detail}; Postfix has taken no message since", remedy)


def _since(running: Running, postfix: Postfix | None) -> int:
    """When the comparison begins: with the present configuration, a running daemon, and within the hour."""
    # Logs have whole seconds.
    return int(max(time.time() - HOUR, running.status["service"]["started_at"], postfix.changed_at if postfix else 0))


def was_asked(running: Running | None, postfix: Postfix) -> bool:
    """Whether Postfix has asked the daemon within the hour, with its present configuration."""
    last = running and running.own["last_request_at"]
    return bool(running and last and last >= _since(running, postfix))


def requests_finding(running: Running, postfix: Postfix | None, log: MailLog | None) -> Finding:
    """Check that Postfix asks about the messages that it takes; None: configuration or log could not be read."""
    now, last, since = time.time(), running.own["last_request_at"], _since(running, postfix)
    asked = f"last request {span(now - last)} ago" if last else f"no request since {as_text(since)}"
    if postfix is None or log is None:
        status = OK if last and last >= since else WARN
        return Finding("requests", status, f"{asked}; whether Postfix takes mail could not be seen")
    remedy = f"{postfix.instances[0].reload}, if main.cf is right; see the other checks of Postfix"
    if not last or last < since:
        messages = sum(at >= since for at in log.outside)
        if not messages:
            return Finding("requests", OK, f"{asked}, and Postfix took no mail from outside, according to {log.name}")
        seen = f"Postfix took {messages} messages from outside since {as_text(since)}, according to {log.name}"
        return Finding("requests", FAIL, f"{asked}, but {seen}", remedy)
    minutes = [minute for minute in running.status["minutes"] if minute["start"] >= since]
    requests = sum(sum(minute[kind].values()) for minute in minutes for kind in ("passed", "deferred"))
    messages = sum(at >= minutes[0]["start"] for at in log.outside) if minutes else 0
    # Some may be on their way, and an access map may permit others.
    if messages >= 10 and messages > 2 * requests:
        detail = f"{asked}, but only {requests} requests for {messages} messages from outside since "
        remedy = "see what comes before the check in its restriction list: it lets most mail through without asking"
        return Finding("requests", WARN, f"{detail}{as_text(minutes[0]['start'])}, according to {log.name}", remedy)
    return Finding("requests", OK, asked)


def _log_files(postfix: Postfix, since: float) -> list[Path]:
    """The mail log with what was rotated out of it since then, oldest first; none: the journal is to be asked.

    A file that syslog has not written to since then may be left over from the days before the journal.
    """
    if configured := postfix.instances[0].main.get("maillog_file"):
        path = Path(configured)
        # /dev/stdout is a file where the output of doctor is one.
        if configured.startswith("/dev/") or (path.exists() and not path.is_file()):
            raise BackendError(f"Postfix logs to {path}, which is not a file")
        return [*_rotated(path, since), path]
    for path in MAIL_LOGS:
        if fresh := _rotated(path, since) + [path] * (path.exists() and path.stat().st_mtime >= since):
            return fresh
    left_over = [path for path in MAIL_LOGS if path.exists()]
    if shutil.which(_JOURNAL[0]) is None and not left_over:
        raise BackendError(f"neither {' nor '.join(map(str, MAIL_LOGS))} nor a journal")
    return [] if shutil.which(_JOURNAL[0]) else left_over[:1]


def _rotated(path: Path, since: float) -> list[Path]:
    """The older files of a log, as logrotate(8) and `postfix logrotate` name them."""
    files = [(file.stat().st_mtime, file) for file in path.parent.glob(f"{path.name}[.-]*")]
    return [file for at, file in sorted(files) if at >= since]


def _end_of(path: Path) -> bytes:
    if path.suffix in {".gz", ".bz2", ".xz"}:
        return b"".join(chunks_of(str(path), lambda _: None))[-TAIL:]
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - TAIL))
        return log.read(TAIL)


def _journal(postfix: Postfix, since: float) -> bytes:
    parameters = [*(each.main for each in postfix.instances), *(smtpd.parameters for smtpd in postfix.smtpd)]
    names = {each.get("syslog_name", "postfix") for each in parameters}
    programs = [f"--identifier={name}/{program}" for name in sorted(names) for program in ("smtpd", "qmgr", "master")]
    command = [*_JOURNAL, *programs, f"--since=@{since:.0f}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{command[0]} did not end within {_PATIENCE:g} s") from error
    # Notices about messages that it may not show, or about a missing journal.
    if done.returncode or done.stderr.strip():
        notice = " ".join(done.stderr.decode(errors="replace").split()) or f"{command[0]} failed"
        raise PermissionError(notice) if "permission" in notice or "not seeing" in notice else BackendError(notice)
    return done.stdout[-TAIL:]


def _is_local(address: str, permitted: Sequence[Network]) -> bool:
    ip = parse_address(address)
    return ip is not None and (ip.is_loopback or any(ip in network for network in permitted))


def clock_finding(*, shared: bool) -> Finding:
    """Check the wall clock, which counters use if other hosts' daemons share them."""
    if not shared:
        return Finding("clock", OK, "counters in memory use the monotonic clock and do not depend on the time of day")
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    answer = ""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603
        answer = done.stdout.strip()
    if answer == "yes":
        return Finding("clock", OK, "synchronized")
    known = "is not synchronized" if answer == "no" else "may not be synchronized: timedatectl does not say"
    detail = f"the clock {known}; hosts that share counters must agree to within 5 s"
    return Finding("clock", WARN, detail, "run chrony or systemd-timesyncd on every host")
