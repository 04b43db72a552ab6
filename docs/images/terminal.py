#!/usr/bin/env python3
"""Record the commands at work: terminal.py OUT.svg.

A real daemon, Postfix and rbldnsd are started for it, as in the tests, and every line of output is what the
commands print. Only the typing is not real, waits are cut to a second, and each command is given the file of this
daemon with -c. Needs root, and termtosvg for the picture.
"""

import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from threading import Thread
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/integration"))
from daemon_process import COMMAND, Daemon
from postfix_server import Postfix
from rbldnsd_server import rbldnsd
from waiting import free_port

COLUMNS: Final = 108
ROWS: Final = 27
LONGEST_WAIT: Final = 1.0
PER_LETTER: Final = 0.04
TO_READ: Final = 3.0
"""Seconds for which the output of a command stands still."""
WATCHED: Final = 5.0
"""Seconds for which a command that does not end by itself is watched."""
MEANWHILE: Final = range(90, 110)
"""Percent of the messages of an hour that come while `top` is watched."""
ZONE: Final = "score.example.org"
CLIENT: Final = "192.0.2.75"
# Name, score (None: the zone has none) and messages within the hour.
CLIENTS: Final = (
    ("out-1.newsletter.example", 97, 940), ("mta4.bulk.example", 38, 420), ("cpe-17.dsl.example", 3, 130),
    ("relay.isp.example", 72, 690), ("mail.shop.example", 88, 310), ("lists.project.example", None, 240),
    ("vps31.hosting.example", 17, 185), ("smtp.university.example", 93, 160), ("mx.museum.example", 98, 44),
)  # fmt: skip


class Recording:
    """What a terminal shows, by time: asciicast v2."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lines = [json.dumps({"version": 2, "width": COLUMNS, "height": ROWS})]

    def show(self, text: str, after: float = 0.0) -> None:
        """Show text so many seconds after the last."""
        self._now += min(after, LONGEST_WAIT)
        self._lines.append(json.dumps([round(self._now, 3), "o", text]))

    def rest(self, seconds: float) -> None:
        """Let it be read."""
        self._now += seconds

    def type(self, command: str) -> None:
        """Type a command behind a prompt."""
        self.show("\x1b[32m$\x1b[0m ", 0.3)
        for start in range(0, len(command), 4):
            self.show(command[start : start + 4], 4 * PER_LETTER)
        self.show("\r\n", 0.4)

    def save(self, picture: Path) -> None:
        """Draw it."""
        with tempfile.NamedTemporaryFile("w", suffix=".cast") as cast:
            cast.write("\n".join(self._lines) + "\n")
            cast.flush()
            subprocess.run(  # noqa: S603 - fixed
                ["termtosvg", "render", cast.name, str(picture), "-t", "window_frame", "-m", "40", "-D", "4000"],  # noqa: S607 - of a virtual environment
                check=True,
            )


def output(command: str, environment: dict[str, str], directory: Path) -> Iterator[tuple[float, str]]:
    """What a command writes to a terminal, each part with the seconds since the last; ended by Ctrl-C after a while."""
    terminal, inside = pty.openpty()
    ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(  # noqa: S603 - those below
        shlex.split(command), stdin=inside, stdout=inside, stderr=inside, env=environment, cwd=directory
    )
    os.close(inside)
    started = last = time.monotonic()
    try:
        while True:
            if not select.select([terminal], [], [], max(0.0, started + WATCHED - time.monotonic()))[0]:
                process.send_signal(signal.SIGINT)
                started = time.monotonic()
                continue
            # A terminal whose other side is closed fails instead of ending (pty(7)).
            part = os.read(terminal, 1 << 16).decode()
            yield time.monotonic() - last, part
            last = time.monotonic()
    except OSError:
        process.wait()
    finally:
        os.close(terminal)


def send(daemon: Daemon, percent: range, pause: float = 0.0) -> None:
    """A part of the messages of an hour, with a pause behind each percent of them."""
    with daemon.client() as client:
        for step in percent:
            for number, (name, _, messages) in enumerate(CLIENTS, 10):
                for _ in range(messages * step // 100, messages * (step + 1) // 100):
                    client.ask(f"198.51.100.{number}", client_name=name)
            time.sleep(pause)


def main(picture: Path) -> None:
    """Record."""
    scores = {f"198.51.100.{number}": score for number, (_, score, _) in enumerate(CLIENTS, 10)} | {CLIENT: 75}
    zone = {address: f"127.0.4.{score}" for address, score in scores.items() if score is not None}
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mx-") as name, rbldnsd({ZONE: zone}) as nameserver:
        daemon = Daemon(
            Path(name),
            listen={"policy": [f"inet:127.0.0.1:{port}", f"unix:{name}/policy.sock"]},
            reputation={"zone": ZONE, "nameservers": [f"{nameserver.host}:{nameserver.port}"]},
        )
        daemon.start()
        postfix = Postfix.start(port)
        try:
            record(daemon, postfix, port).save(picture)
        finally:
            postfix.stop()
            daemon.stop()
            daemon.close()


def record(daemon: Daemon, postfix: Postfix, port: int) -> Recording:
    """The session."""
    wrapper = daemon.directory / "bin" / "senderscore-policy"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nname=$1\nshift\nexec {COMMAND} "$name" -c {daemon.file} "$@"\n')
    wrapper.chmod(0o755)
    environment = {
        "PATH": f"{wrapper.parent}:/usr/sbin:/usr/bin:/bin",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        # postconf(1) takes it for the default instance.
        "MAIL_CONFIG": str(postfix.directory),
    }
    recording = Recording()

    def run(command: str) -> None:
        recording.type(command)
        for after, part in output(command, environment, postfix.directory):
            recording.show(part, after)
        recording.rest(TO_READ)

    def chapter(text: str) -> None:
        recording.show(f"\x1b[2J\x1b[H\x1b[36m# {text}\x1b[0m\r\n")

    chapter("A client, its score, and its limit")
    run(f"senderscore-policy score {CLIENT}")
    run(f"senderscore-policy ask client_address={CLIENT}")
    run(f"senderscore-policy increment {CLIENT} --by 800")
    run(f"senderscore-policy ask client_address={CLIENT}")
    with postfix.client(CLIENT) as client:
        assert client.deliver().startswith("421")
    queue_id = postfix.wait_for_log(r"(\w+): reject: END-OF-MESSAGE")[1]
    chapter("Postfix has deferred a message of that client. Why?")
    run("grep reject: mail.log")
    run(f"senderscore-policy explain {queue_id}")
    send(daemon, range(MEANWHILE.start))
    chapter("Who is limited, who is near the limit?")
    mail = Thread(target=send, args=(daemon, MEANWHILE, WATCHED / len(MEANWHILE)))
    mail.start()
    run("senderscore-policy top --interval 1")
    mail.join()
    chapter("Is everything set up right?")
    postfix.configure("-e", f"smtpd_end_of_data_restrictions=check_policy_service inet:127.0.0.1:{port}")
    run("senderscore-policy doctor")
    return recording


if __name__ == "__main__":
    main(Path(sys.argv[1]))
