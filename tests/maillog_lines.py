"""Lines as Postfix 3.7 wrote them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count

BEGIN = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
"""When the first line of a `Log` was written."""

Stamp = Callable[[datetime], str]


def syslog(moment: datetime) -> str:
    """The classic timestamp, in local time."""
    local = moment.astimezone()
    return f"{local:%b} {local.day:2} {local:%T}"


def iso(moment: datetime) -> str:
    """As rsyslog writes it by default since Debian 12."""
    return moment.isoformat(timespec="microseconds")


class Log:
    """A log in the making; each message comes a second after the one before, unless it says when."""

    def __init__(self, stamp: Stamp = iso) -> None:
        self.lines: list[str] = []
        self.now = BEGIN
        self._stamp = stamp
        self._numbers = count(0xB0D6525A8CB)

    def line(self, text: str, program: str = "postfix/smtpd[9311]") -> None:
        """Add a line."""
        self.lines.append(f"{self._stamp(self.now)} mx {program}: {text}")

    def message(
        self,
        address: str,
        *,
        name: str = "mx.example.net",
        recipients: int = 1,
        more: str = "",
        instance: str = "postfix",
        at: float | None = None,
    ) -> str:
        """Add the lines of a message that is taken; its queue ID.

        Args:
            address: of the client.
            name: of the client.
            recipients: how many it has.
            more: what follows the client.
            instance: of Postfix.
            at: seconds after `BEGIN`.
        """
        self.now = self.now + timedelta(seconds=1) if at is None else BEGIN + timedelta(seconds=at)
        queue_id = f"{next(self._numbers):X}"
        self.line(f"connect from {name}[{address}]", f"{instance}/smtpd[9311]")
        self.line(f"{queue_id}: client={name}[{address}]{more}", f"{instance}/smtpd[9311]")
        self.line(f"{queue_id}: message-id=<1@example.net>", f"{instance}/cleanup[9314]")
        self.line(
            f"{queue_id}: from=<sender@example.net>, size=313, nrcpt={recipients} (queue active)",
            f"{instance}/qmgr[9308]",
        )
        self.line(f"{queue_id}: to=<user0@example.org>, relay=none, status=sent", f"{instance}/discard[9317]")
        self.line(f"{queue_id}: removed", f"{instance}/qmgr[9308]")
        return queue_id

    def messages(self, address: str, number: int, every: float = 1.0) -> None:
        """Add `number` messages, one every `every` seconds."""
        begin = (self.now - BEGIN).total_seconds()
        for each in range(number):
            self.message(address, at=begin + each * every)

    @property
    def text(self) -> str:
        """The log."""
        return "".join(f"{line}\n" for line in self.lines)


def from_clients(addresses: Iterable[str]) -> str:
    """A log with one message from each of these."""
    log = Log()
    for address in addresses:
        log.message(address)
    return log.text
