"""The same messages are found in every form that logs have."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from senderscore_policy.errors import InputError
from senderscore_policy.maillog.messages import Traffic

Read = Callable[..., Traffic]
Entry = tuple[datetime, str, int, str]

BEGIN = datetime(2026, 2, 4, 6, 30, tzinfo=UTC)


def entries() -> list[Entry]:
    """Two messages of two clients: time, program, process number and text."""
    lines = []
    for number, address in enumerate(("192.0.2.25", "2001:db8::25")):
        at = BEGIN + timedelta(seconds=number)
        queue_id = f"4Yk{number}bQ"
        client = f"mx.example.net[{address}]"
        lines += [
            (at, "postfix/smtpd", 71, f"connect from {client}"),
            (at, "postfix/smtpd", 71, f"{queue_id}: client={client}"),
            (at, "postfix/cleanup", 72, f"{queue_id}: message-id=<a@example.net>"),
            (at, "postfix/qmgr", 73, f'{queue_id}: from=<"a"@example.net>, size=9, nrcpt=1 (queue active)'),
            (at, "postfix/lmtp", 74, f"{queue_id}: to=<b@example.org>, status=sent (250 ok)"),
        ]
    return lines


def text(pattern: str) -> str:
    """A log with a line of this pattern for each entry."""
    return "".join(
        pattern.format(t=at, day=f"{at:%d}".lstrip("0"), epoch=int(at.timestamp()), name=name, pid=pid, text=message)
        + "\n"
        for at, name, pid, message in entries()
    )


def json_lines(make: Callable[[Entry], dict[str, object]], indent: str | None = None) -> str:
    """A log with a JSON object for each entry."""
    return "".join(json.dumps(make(entry), indent=indent) + "\n" for entry in entries())


def journal(entry: Entry) -> dict[str, object]:
    """An entry as the journal has it."""
    at, name, pid, message = entry
    return {
        "__REALTIME_TIMESTAMP": str(int(at.timestamp() * 1_000_000)),
        "_HOSTNAME": "mx",
        "SYSLOG_IDENTIFIER": name,
        "_PID": str(pid),
        "MESSAGE": message,
    }


TAG = "{name}[{pid}]: {text}"
CLASSIC = f"{{t:%b}}  {{day}} {{t:%T}} mx {TAG}"
FORMS = {
    "classic syslog": text(CLASSIC),
    "day with one space": text(f"{{t:%b}} {{day}} {{t:%T}} mx {TAG}"),
    "day with a zero": text(f"{{t:%b %d %T}} mx {TAG}"),
    "year after the day": text(f"{{t:%b %d %Y %T}} mx {TAG}"),
    "fractions": text(f"{{t:%b %d %T.%f}} mx {TAG}"),
    "no host": text(f"{{t:%b %d %T}} {TAG}"),
    "no process number": text("{t:%b %d %T} mx {name}: {text}"),
    "host with its address": text(f"{{t:%b %d %T}} mx/192.0.2.1 {TAG}"),
    "rsyslog's ISO": text(f"{{t:%FT%T.%f}}+00:00 mx {TAG}"),
    "ISO in another zone": text(f"2026-02-04T11:30:{{t:%S}}+05:00 mx {TAG}"),
    "ISO with Z": text(f"{{t:%FT%T}}Z mx {TAG}"),
    "ISO with a blank and a comma": text(f"{{t:%F %T,%f}} mx {TAG}"),
    "ISO in brackets": text(f"[{{t:%F %T}}] mx {TAG}"),
    "journalctl -o short-full": text(f"Wed {{t:%F %T}} UTC mx {TAG}"),
    "journalctl -o short-iso": "-- Boot 0 --\n" + text(f"{{t:%FT%T}}+0000 mx {TAG}"),
    "journalctl -o short-unix": text(f"{{epoch}}.250000 mx {TAG}"),
    "ISO with slashes": text(f"{{t:%Y/%m/%d %T}} mx {TAG}"),
    "ISO in lower case": text(f"{{t:%Ft%T}}z mx {TAG}"),
    "ISO with an offset in brackets": text(f"[{{t:%FT%T}}+00:00] mx {TAG}"),
    "a host whose name begins like a time zone": text(f"{{t:%F %T}} zulu.example.org {TAG}"),
    "Kibana's date": text(f'"{{t:%b %d, %Y @ %T}}.000",mx,"{TAG}"'),
    "nanoseconds since the epoch": text(f'{{epoch}}000000000,"mx {TAG}"'),
    "German month": text(f"Feb {{t:%d %T}} mx {TAG}"),
    "Romanian month": text(f"feb. {{t:%d %T}} mx {TAG}"),
    "Ukrainian month": text(f"лют {{t:%d %T}} mx {TAG}"),
    "a whole name of a month": text(f"Februar {{t:%d %T}} mx {TAG}"),
    "French month": text(f"févr. {{t:%d %T}} mx {TAG}"),
    "Polish month": text(f"lut {{t:%d %T}} mx {TAG}"),
    "Russian month": text(f"фев {{t:%d %T}} mx {TAG}"),
    "Japanese month": text(f"2月 {{t:%d %T}} mx {TAG}"),
    "RFC 3164 with priority": text(f"<22>{CLASSIC}"),
    "RFC 5424": text("<22>1 {t:%FT%T}Z mx {name} {pid} - - {text}"),
    "RFC 5424 with data": text('<22>1 {t:%FT%T}Z mx {name} {pid} - [o@1 x="1 2"] \ufeff{text}'),
    "RFC 5424 with two elements": text('<22>1 {t:%FT%T}Z mx {name} {pid} - [a@1 x="]\\]"][b@1]  {text}').replace(
        '"]', '"'
    ),
    "RFC 6587": text("92 <22>1 {t:%FT%T}Z mx {name} {pid} - - {text}").replace("\n", "") + "\n",
    "macOS": text("{t:%b %d %T} mx {name}[{pid}] <Info>: {text}"),
    "a year and a colon": text(f"{{t:%b %d %Y %T}}: mx {TAG}"),
    "a level with a colon": text(f"{{t:%FT%T}}Z INFO: {TAG}"),
    "tabs": text(CLASSIC).replace(" ", "\t"),
    "blanks of a web page": text(CLASSIC).replace(" ", "\u00a0"),
    "as HTML": text(CLASSIC).replace("<", "&lt;").replace(">", "&gt;"),
    "a table with columns": text('"{t:%F %T}","mx","{name}[{pid}]:","{text}"'),
    "colours": text("\x1b[36m{t:%b %d %T}\x1b[0m mx \x1b[1m{name}\x1b[0m[{pid}]: \x1b[0;1m{text}\x1b[0m"),
    "busybox": text(f"{{t:%b %d %T}} mx mail.info {TAG}"),
    "FreeBSD's syslogd -vv": text(f"{{t:%b %d %T}} <mail.info> mx {TAG}"),
    "Solaris": text("{t:%b %d %T} mx {name}[{pid}]: [ID 197553 mail.info] {text}"),
    "docker compose logs": text(f"smtp-1  | {CLASSIC}"),
    "docker compose logs, coloured": text(f"\x1b[36msmtp-1  |\x1b[0m {CLASSIC}"),
    "docker compose logs of version 2, coloured": text(f"\x1b[36msmtp-1  | \x1b[0m{CLASSIC}"),
    "docker compose in the journal": text(f"{{t:%b %d %T}} mx docker[812]: smtp-1  | {CLASSIC}"),
    "docker logs -t": text(f"{{t:%FT%T}}.000000007Z {CLASSIC}"),
    "Kubernetes": text(f"{{t:%FT%T}}.000000007Z stdout F {CLASSIC}"),
    "Kubernetes, a line in two pieces": text(
        "{t:%FT%T}.000000007Z stdout P {t:%b %d %T} mx {name}[{pid}]: \n{t:%FT%T}.000000007Z stdout F {text}"
    ),
    "a level in the place of the host": text(f"{{t:%FT%T}}+00:00 INFO    {TAG}"),
    "docker's syslog driver": text(f"{{t:%b %d %T}} docker smtp[812]: {CLASSIC}"),
    "grep -H": text(f"/var/log/mail.log.1:{CLASSIC}"),
    "logfmt": text(f'level=info ts={{t:%FT%T}}Z msg="{CLASSIC}"'),
    "another instance": text(CLASSIC.replace("{name}", "in/{name}")),
    "nqmgr": text(CLASSIC).replace("/qmgr", "/nqmgr"),
    "CR LF": text(CLASSIC).replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + text(CLASSIC),
    "UTF-16": text(CLASSIC).encode("utf-16"),
    "UTF-16 without a byte order mark": text(CLASSIC).encode("utf-16-le"),
    "NULs after a crash": text(CLASSIC).replace("\n", "\n" + 200 * "\0"),
    "gzip": gzip.compress(text(CLASSIC).encode()),
    "two bzip2 files in one": b"".join(bz2.compress(line.encode() + b"\n") for line in text(CLASSIC).splitlines()),
    "xz": lzma.compress(text(CLASSIC).encode()),
    "lzma": lzma.compress(text(CLASSIC).encode(), lzma.FORMAT_ALONE),
    "journalctl -o json": json_lines(journal),
    "journalctl -o json-pretty": json_lines(journal, "\t"),
    "journalctl -o json-pretty, CR LF": "-- Boot 0 --\n" + json_lines(journal, "\t").replace("\n", "\r\n"),
    "journalctl -o export": "".join(
        "".join(f"{name}={value}\n" for name, value in journal(entry).items()) + "\n" for entry in entries()
    ),
    "journalctl -o verbose": "".join(
        f"Wed {entry[0]:%F %T} UTC [s=1;i=2]\n"
        + "".join(f"    {name}={value}\n" for name, value in list(journal(entry).items())[1:])
        for entry in entries()
    ),
    "journalctl -o json-seq": json_lines(journal).replace("{", "\x1e{"),
    "journalctl -o json-sse": json_lines(journal).replace("{", "data: {").replace("\n", "\n\n"),
    "journal, not UTF-8": json_lines(lambda entry: journal(entry) | {"MESSAGE": list(entry[3].encode())}),
    "docker's journal driver": json_lines(
        lambda entry: (
            journal(entry)
            | {"SYSLOG_IDENTIFIER": "smtp", "MESSAGE": f"{entry[0]:%b %d %T} smtp {entry[1]}[1]: {entry[3]}"}
        )
    ),
    "docker's json-file": json_lines(
        lambda entry: {
            "log": f"{entry[0]:%b %d %T} mx {entry[1]}[1]: {entry[3]}\n",
            "time": f"{entry[0]:%FT%T}.000000007Z",
        }
    ),
    "syslog-ng's JSON": json_lines(
        lambda entry: {"PROGRAM": entry[1], "DATE": f"{entry[0]:%b %d %T}", "MESSAGE": entry[3]}
    ),
    "rsyslog's JSON": json_lines(
        lambda entry: {"timereported": f"{entry[0]:%FT%T}Z", "syslogtag": f"{entry[1]}[1]:", "msg": f" {entry[3]}"}
    ),
    "rsyslog's jsonmesg": json_lines(
        lambda entry: {
            "msg": f" {entry[3]}",
            "timereported": f"{entry[0]:%FT%T}Z",
            "syslogtag": f"{entry[1]}[1]:",
            "programname": "postfix",
        }
    ),
    "rsyslog's template with blanks": json_lines(
        lambda entry: {"time": f"{entry[0]:%FT%T}Z", "tag": f"{entry[1]}[1]:", "msg": entry[3]}
    ).replace("{", "{ "),
    "syslog-ng with UNIXTIME": json_lines(
        lambda entry: {"PROGRAM": entry[1], "UNIXTIME": int(entry[0].timestamp()), "MESSAGE": entry[3]}
    ),
    "fluentd, the time before the object": "".join(
        f"{at:%FT%T}Z\tmail.info\t{json.dumps({'ident': name, 'message': said})}\n" for at, name, _, said in entries()
    ),
    "logstash, the message is a whole line": json_lines(
        lambda entry: {
            "@timestamp": f"{entry[0]:%FT%T}Z",
            "program": entry[1],
            "message": f"<22>{entry[0]:%b %d %T} mx {entry[1]}[1]: {entry[3]}",
        }
    ),
    "elasticdump": json_lines(
        lambda entry: {
            "_id": "a",
            "_source": {"@timestamp": f"{entry[0]:%FT%T}Z", "program": entry[1], "message": entry[3]},
        }
    ),
    "an array in a line": json.dumps(
        [{"timestamp": int(at.timestamp() * 1e9), "line": f"mx {name}[1]: {said}"} for at, name, _, said in entries()]
    ),
    "a search result over several lines": json.dumps(
        {"hits": [{"time": f"{at:%FT%T}Z", "program": name, "message": said} for at, name, _, said in entries()]},
        indent=2,
    ),
    "JSON in a container's JSON": json_lines(
        lambda entry: {
            "log": json.dumps({"time": f"{entry[0]:%FT%T}Z", "program": entry[1], "message": entry[3]}) + "\n"
        }
    ),
    "mailcow's redis": json_lines(
        lambda entry: {"time": str(int(entry[0].timestamp())), "program": entry[1], "message": entry[3]}
    ),
    "milliseconds": "[\n"
    + json_lines(lambda entry: {"ts": entry[0].timestamp() * 1000, "ident": entry[1], "message": entry[3]}).replace(
        "}\n", "},\n"
    ),
    "Elastic Common Schema": json_lines(
        lambda entry: {"@timestamp": f"{entry[0]:%FT%T}Z", "process": {"name": entry[1], "pid": 1}, "message": entry[3]}
    ),
}


@pytest.mark.parametrize("log", FORMS.values(), ids=FORMS)
def test_every_form_has_the_same_messages(read: Read, log: str | bytes) -> None:
    """Clients, times and the lines of Postfix are found whatever surrounds a line."""
    traffic = read(log)
    assert [traffic.who[number].address for number in traffic.senders] == ["192.0.2.25", "2001:db8::25"]
    assert [int(at - BEGIN.timestamp()) for at in traffic.times] == [0, 1]
    assert (traffic.coverage.postfix, dict(traffic.coverage.unread)) == (8, {})


def test_forms_may_be_mixed(read: Read) -> None:
    """A host's syslog changed its form in the middle of a file."""
    first, second = (form.splitlines(keepends=True) for form in (text(CLASSIC), text(f"{{t:%FT%T}}Z mx {TAG}")))
    assert len(read("".join(first[:5] + second[5:])).times) == 2


@pytest.mark.parametrize(
    "line",
    [
        f"Feb  4 06:30:00 mx postfix/lmtp[9]: A1: to=<b@c>, status=bounced (said: {CLASSIC})",
        f"Feb  4 06:30:00 mx amavis[9]: (1) Passed CLEAN, Message-ID: <{CLASSIC}>",
        f"Feb  4 06:30:00 mx postfix/smtpd[9]: warning: non-SMTP command from a[192.0.2.1]: {CLASSIC}",
        "Feb  4 06:30:00 mx postfix/smtp[9]: A1: host x said: /{name}[1]: {text}",
    ],
)
def test_what_a_client_says_is_not_a_line(read: Read, line: str) -> None:
    """A line of another program, or of smtpd itself, may quote a whole log line; it counts nothing."""
    assert len(read(text(CLASSIC) + text(line)).times) == 2


def test_a_message_in_json_is_one_line(read: Read) -> None:
    """A line break or a run of NULs in the text of another program does not begin a line of Postfix."""
    forged = text(CLASSIC).splitlines()
    log = "".join(
        json.dumps({"time": "2026-02-04T06:30:00Z", "program": "x", "message": f"smtpd: {sign}{line}"}) + "\n"
        for line in forged
        for sign in ("\n", "\r\n", "\0\0\0\0")
    )
    assert len(read(text(CLASSIC) + log).times) == 2


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (text("{text}"), "no line of Postfix's smtpd, cleanup or qmgr; the first line is 'connect from mx"),
        (text(TAG), "no time; the first line is 'postfix/smtpd"),
        (text(f"Foo 04 06:30:00 mx {TAG}"), "'Foo' is not a month; the first line is 'Foo 04"),
        ("Feb  4 06:30:00 mx sshd[1]: Accepted publickey for root\n", "no line of Postfix"),
        (b"\0\1\2" * 1000, "no line of Postfix"),
        ("x" * 40_000_000, "no line of Postfix"),
        (b"\x28\xb5\x2f\xfd...", r"unpack it: zstdcat /.*/mail\.log \| senderscore-policy forecast -"),
        (b"PK\3\4...", "unpack it: unzip -p /"),
        (gzip.compress(text(CLASSIC).encode())[:-20], "is damaged or cut short"),
        (lzma.compress(text(CLASSIC).encode())[:-20], "is damaged or cut short"),
        (bz2.compress(text(CLASSIC).encode())[:-20], "is damaged or cut short"),
    ],
)
def test_an_unreadable_log_is_an_error_with_its_first_line(read: Read, log: str | bytes, reason: str) -> None:
    """The error names the file and the reason, quotes a line, and lists what is understood."""
    with pytest.raises(InputError, match=rf"mail\.log: .*{reason}"):
        read(log)


def test_unread_lines_are_counted_by_reason(read: Read) -> None:
    """Every line of Postfix counts that was not understood, not every distinct timestamp; others do not."""
    log = (
        text(CLASSIC) + 2 * text(f"Feb 30 06:30:00 mx {TAG}") + text(TAG) + '{"SYSLOG_IDENTIFIER": "postfix/smtpd", \n'
    )
    coverage = read("garbage\n" + log).coverage
    assert dict(coverage.unread) == {
        "day is out of range for month": 16,
        "no time": 8,
        "not a JSON object with a message": 1,
    }
    assert coverage.example
    assert (coverage.lines, coverage.postfix) == (42, 8)


@pytest.mark.parametrize(
    "stamp", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59"]
)
def test_an_unknown_time_is_not_a_time(read: Read, stamp: str) -> None:
    """Programs write the first or the last year for a time that they do not know."""
    coverage = read(text(CLASSIC) + text(f"{stamp} mx {TAG}")).coverage
    assert (coverage.ended, coverage.unread.total()) == (2, 8)


@pytest.mark.parametrize("value", ["1e999", "-1", "0", '"nan"', "[]", "{}", "null", "true", '"x"'])
def test_odd_values_in_json_are_unread(read: Read, value: str) -> None:
    """A JSON object with another kind of value than a log daemon writes stops nothing."""
    odd = "".join(
        f'{{"time": {time}, "program": {program}, "message": {message}}}\n'
        for time, program, message in (
            (value, '"postfix/smtpd"', '"x"'),
            ("1e9", value, '"/smtpd: x"'),
            ("1e9", '"a/smtpd"', value),
        )
    )
    assert len(read(text(CLASSIC) + odd).times) == 2


def test_a_file_without_postfix_among_others_is_named(read: Read) -> None:
    """A wrong file does not stop the forecast of the right one."""
    traffic = read(text(CLASSIC), "Feb  4 06:30:00 mx sshd[1]: hello\n")
    assert len(traffic.times) == 2
    assert list(traffic.coverage.without_postfix.values()) == [b"Feb  4 06:30:00 mx sshd[1]: hello"]
