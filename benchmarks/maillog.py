#!/usr/bin/env python3
"""Writes a mail log as Postfix does, the same in every run: maillog.py [--iso] [--days N] MESSAGES LOG SCORES.

The clients are those of the benchmarks' mix, in a rhythm of day and night, and each flood comes on one
afternoon. About eight lines make a message; among them are rejected recipients, messages that milters
reject, postscreen's lines, users that have logged in, and messages that come back from a filter on this host.
"""

import argparse
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from workloads import FLOOD_SCORES, SEED, address, mix

BEGIN: Final = datetime(2026, 9, 7, tzinfo=UTC)
STEP: Final = timedelta(microseconds=3217)
"""From one line about a message to the next; they are not mixed with those of others."""
FLOOD_HOURS: Final = range(13, 18)
FLOOD_SHARE: Final = 0.4
"""The share of all messages in these hours."""


def moments(messages: int, days: int) -> Iterator[datetime]:
    """The times of messages, rising, with the most in the morning and the fewest at night."""
    for number in range(messages):
        day, today = divmod((number + 0.5) / messages * days, 1)
        yield BEGIN + timedelta(days=day + today + 0.08 * (math.sin(2 * math.pi * (today + 0.08)) - 0.48))


def lines(rng: random.Random, number: int, client: str) -> Iterator[str]:
    """What the programs write about a message, without timestamps."""
    queue_id = f"{rng.getrandbits(44):011X}"
    smtpd, cleanup = f"postfix/smtpd[{rng.randint(1000, 4000)}]", f"postfix/cleanup[{rng.randint(4000, 5000)}]"
    who = f"mx{number % 97}.example.net[{client}]" if rng.random() < 0.8 else f"unknown[{client}]"
    envelope = f"from=<a{number}@example.net> to=<user@example.org> proto=ESMTP helo=<mx.example.net>"
    kind = rng.random()
    if kind < 0.3:
        yield f"postfix/postscreen[900]: CONNECT from [{client}]:{rng.randint(1024, 65535)} to [192.0.2.1]:25"
        yield f"postfix/postscreen[900]: PASS OLD [{client}]:{rng.randint(1024, 65535)}"
    yield f"{smtpd}: connect from {who}"
    if kind < 0.2:
        yield f"{smtpd}: NOQUEUE: reject: RCPT from {who}: 550 5.1.1 <user@example.org>: User unknown; {envelope}"
    user = ", sasl_method=PLAIN, sasl_username=user@example.org" if kind > 0.97 else ""
    yield f"{smtpd}: {queue_id}: client={who}{user}"
    yield f"{cleanup}: {queue_id}: message-id=<{number}.{queue_id}@example.net>"
    if 0.3 < kind < 0.33:
        yield f"{cleanup}: {queue_id}: milter-reject: END-OF-MESSAGE from {who}: 5.7.1 Spam; {envelope}"
    else:
        yield from delivery(queue_id, number, rng)
    yield f"{smtpd}: disconnect from {who} ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7"
    if 0.5 < kind < 0.52:
        again = queue_id[::-1]
        yield f"{smtpd}: {again}: client=localhost[127.0.0.1], orig_queue_id={queue_id}, orig_client={who}"
        yield from delivery(again, number, rng)


def delivery(queue_id: str, number: int, rng: random.Random) -> Iterator[str]:
    """What becomes of a message that is taken."""
    size = rng.randint(900, 90000)
    yield f"postfix/qmgr[800]: {queue_id}: from=<a{number}@example.net>, size={size}, nrcpt=1 (queue active)"
    yield (
        f"postfix/lmtp[{rng.randint(5000, 6000)}]: {queue_id}: to=<user@example.org>, relay=mail.example.org"
        "[private/dovecot-lmtp], delay=0.42, delays=0.2/0/0/0.22, dsn=2.0.0, status=sent (250 2.0.0 Saved)"
    )
    yield f"postfix/qmgr[800]: {queue_id}: removed"


def main() -> None:
    """Write the log and the scores of its clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iso", action="store_true", help="ISO timestamps, as rsyslog writes them on Debian 12")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("messages", type=int)
    parser.add_argument("log", type=Path)
    parser.add_argument("scores", type=Path)
    args = parser.parse_args()
    rng = random.Random(SEED)
    workload = mix(args.messages)
    with args.log.open("w") as log:
        for number, (begin, client) in enumerate(zip(moments(args.messages, args.days), workload.clients, strict=True)):
            moment = begin
            flood = moment.day % len(FLOOD_SCORES)
            in_flood = moment.hour in FLOOD_HOURS and rng.random() < FLOOD_SHARE
            for text in lines(rng, number, address(4, flood) if in_flood else client):
                iso = args.iso and moment.isoformat(timespec="microseconds")
                log.write(f"{iso or f'{moment:%b} {moment.day:2} {moment:%T}'} mx1 {text}\n")
                moment += STEP
    args.scores.write_text("".join(f"{client},{score}\n" for client, score in workload.scores.items()))


if __name__ == "__main__":
    main()
