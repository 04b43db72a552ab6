"""A steady load of messages through a real Postfix, in short SMTP sessions."""

import smtplib
import threading
import time
from collections.abc import Sequence
from typing import Final, Self

from load import PERMIT, Record
from postfix_server import Postfix

SESSION: Final = 5
"""Messages of an SMTP session. With `try_limit=1` an smtpd that lost the daemon asks again from its next session on."""


class Mail:
    """Sends messages from threads of its own, from the moment of `with` to its end.

    Args:
        postfix: takes them.
        clients: by address; each sends one message after the other.
        interval: seconds between two messages of a client.
    """

    def __init__(self, postfix: Postfix, clients: Sequence[str], interval: float) -> None:
        self.record = Record()
        self._postfix = postfix
        self._interval = interval
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._deliver, args=[client]) for client in clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _deliver(self, address: str) -> None:
        connection = self._postfix.client(address)
        sent = 0
        while not self._stopped.wait(self._interval):
            sent += 1
            if sent % SESSION == 0:
                connection.quit()
                connection = self._postfix.client(address)
            phase, started = self.record.begin(address), time.monotonic()
            try:
                reply = connection.deliver()
            except (OSError, smtplib.SMTPException):
                self.record.lost(time.monotonic() - started)
                connection = self._postfix.client(address)
            else:
                action = PERMIT if reply.startswith("250") else reply
                self.record.end(address, phase, time.monotonic() - started, action)
        connection.close()
