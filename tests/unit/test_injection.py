"""Whatever the attributes of a request hold: memcached's commands, the log and the replies stay what they are."""

import asyncio
import re
from collections.abc import Sequence

from fakes import EngineBench, FakeRequest
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.counters.memcached.protocol import BucketKeys
from senderscore_policy.monitoring.log import decision_line
from senderscore_policy.policy.ports import Charge
from senderscore_policy.policy.protocol import Request, RequestParser, reply
from senderscore_policy.policy.window import Window

LONGEST_KEY = 250
"""Bytes of a memcached key (protocol.txt)."""
NAMES = (
    *(b"client_address", b"instance", b"queue_id", b"sender", b"sasl_username", b"recipient_count", b"protocol_state"),
    *(b"client_name", b"helo_name", b"recipient"),
)
HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"192.0.2.75",
            b"192.0.2.75\rflush_all",
            b"192.0.2.75 0 0 1",
            b"::ffff:192.0.2.75",
            b"2001:db8::1",
            b"fe80::1%\x0bflush_all",
            b"fe80::1%a b",
            b"x\r\nflush_all\r\n",
            b'x" reason=within-limit',
            "\u2028\u202e\x85".encode(),
            b"\x1b]0;title\x07",
            b"{{ 7 * 7 }}",
        ]
    ),
).map(lambda value: value.replace(b"\n", b"").replace(b"\0", b""))
ATTRIBUTES = st.dictionaries(st.sampled_from(NAMES), HOSTILE)
LOUD = """
[[override]]
networks = ["0.0.0.0/0", "::/0"]
limit = 0
[exempt]
authenticated = false
[reply]
over_limit = "421 {{ client_address }} has sent {{ count }}"
"""
"""Every client with an address is above its limit, and reads its address in the reply."""


class KeptKeys:
    """A store that keeps the keys it is asked to count under."""

    def __init__(self) -> None:
        self.clients: list[str] = []

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:  # noqa: ARG002
        self.clients += [charge.key for charge in charges]
        for charge in charges:
            charge.count = 1


def received(attributes: dict[bytes, bytes]) -> list[Request]:
    """The request, parsed from the wire."""
    lines = [b"request=smtpd_access_policy", *(name + b"=" + value for name, value in attributes.items())]
    return RequestParser().feed(b"\n".join(lines) + b"\n\n")


def asking(request: Request) -> FakeRequest:
    """Somebody who asks with this request."""
    asker = FakeRequest()
    asker.request = request
    return asker


def decided(attributes: dict[bytes, bytes]) -> tuple[EngineBench, str | None]:
    """An engine that has decided this request, and its answer."""
    bench = EngineBench(LOUD)
    action = None
    for request in received(attributes):
        [action] = asyncio.run(bench.ask(asking(request)))
    return bench, action


@given(ATTRIBUTES, st.sampled_from([Window(3600, 12), Window(2_419_200, 60), Window(60, 0)]), st.integers(0, 2**40))
def test_no_attribute_gets_into_a_memcached_command(
    attributes: dict[bytes, bytes], window: Window, bucket: int
) -> None:
    """A key is the prefix, an address in its canonical form and numbers, without blanks, within 250 bytes."""
    bench = EngineBench()
    bench.engine.store = store = KeptKeys()
    for request in received(attributes):
        asyncio.run(bench.ask(asking(request)))
    for client in store.clients:
        key = BucketKeys("p" * 100, window).stem(client) + b"%d" % bucket
        assert re.fullmatch(rb"p{100}[0-9a-f.:]+(/[0-9]+)?:[0-9]+\.[0-9]+:[0-9]+", key)
        assert len(key) <= LONGEST_KEY


@given(ATTRIBUTES)
def test_no_attribute_forges_a_log_line(attributes: dict[bytes, bytes]) -> None:
    """A decision is one printable line, and outside of quotes there are only the daemon's own fields, each once."""
    bench, _ = decided(attributes)
    for decision in bench.seen.decisions:
        line = decision_line(decision)
        assert line.isprintable()
        names = re.sub(r'"(?:[^"\\]|\\.)*"', "", line).removeprefix("decision ").split(" ")
        assert [name.partition("=")[0] for name in names] == [
            *("reason", "client", "score", "reputation", "tier", "count", "limit"),
            *("queue_id", "instance", "client_address", "sender", "state", "action"),
        ]


@given(ATTRIBUTES)
def test_no_attribute_forges_a_reply(attributes: dict[bytes, bytes]) -> None:
    """A reply is one line `action=…` without control characters and an empty line, also when it shows an attribute."""
    _, action = decided(attributes)
    if action is not None:
        sent = reply(action).decode()
        assert sent.startswith("action=")
        assert sent.endswith("\n\n")
        assert sent.removesuffix("\n\n").isprintable()
