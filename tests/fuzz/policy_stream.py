"""What a client of the policy socket sends, down to the reply and the log line."""

import re
from collections.abc import Iterable

from fakes import EngineBench, FakeRequest
from steps import cut, finish, single_bytes

from senderscore_policy.errors import ProtocolError
from senderscore_policy.monitoring.log import decision_line
from senderscore_policy.policy import protocol
from senderscore_policy.policy.protocol import Request, RequestParser, printable, reply

SMALLER = ((protocol, "MAX_REQUEST", 400), (protocol, "MAX_VALUE", 100))
"""Bounds that a short stream can pass."""
FIELDS = (
    *("reason", "client", "score", "reputation", "tier", "count", "limit"),
    *("queue_id", "instance", "client_address", "sender", "state", "action"),
)
_FIELD = r' ([a-z_]+)=(?:"(?:[^"\\]|\\.)*"|[!#-<>-\[\]-~]+)'
_LINE = re.compile(rf"decision(?:{_FIELD})+")
_BENCH = EngineBench("""
[counters]
count = "recipients"
[[override]]
networks = ["0.0.0.0/0", "::/0"]
score = 0
[[tier]]
scores = "0-100"
limit = 0
[reply]
over_limit = "421 {{ client_address }} {{ count }}"
""")
"""Every counted request is above its limit, so that its attributes come into a reply."""


def check(data: bytes) -> None:
    """The same stream in any chunks gives the same requests; no request forges a reply or a log line."""
    whole = _parsed([data])
    assert _parsed(single_bytes(data)) == whole
    assert _parsed(cut(data)) == whole
    requests = [Request(raw) for raw in whole[0]]
    for request in requests:
        values = [line.partition(b"=")[2] for line in request.raw.split(b"\n")]
        assert all(printable(value).isprintable() for value in values)
    _decide(requests)


def _parsed(chunks: Iterable[bytes]) -> tuple[list[bytes], str]:
    """The requests, and what is wrong with what follows them."""
    parser = RequestParser()
    requests = [request.raw for chunk in chunks for request in parser.feed(chunk)]
    assert parser.fault is None or isinstance(parser.fault, ProtocolError)
    return requests, str(parser.fault)


def _decide(requests: list[Request]) -> None:
    askers = [FakeRequest() for _ in requests]
    for asker, request in zip(askers, requests, strict=True):
        asker.request = request
        _BENCH.engine.submit(asker)
    _BENCH.engine.stop()
    finish(_BENCH.engine.run())
    for asker in askers:
        assert asker.error is None
        assert asker.action is not None
        head, text, tail = reply(asker.action).decode().partition(asker.action)
        assert (head, tail) == ("action=", "\n\n")
        assert text.isprintable()
    for decision in _BENCH.seen.decisions:
        line = decision_line(decision)
        assert line.isprintable()
        assert _LINE.fullmatch(line)
        assert tuple(re.findall(_FIELD, line)) == FIELDS
    _BENCH.seen.decisions.clear()
    _BENCH.store.counts.clear()
