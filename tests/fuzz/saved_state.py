"""A file of the state directory."""

from fakes import FakeClock, ScoreSite, score_site
from steps import finish

from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Charge, Persistent
from senderscore_policy.policy.window import Window

SMALLER = ()
CLIENT = "192.0.2.75"


def check(data: bytes) -> None:
    """A file is taken up, saved again as what it was and good to count on, or it is malformed."""
    try:
        # As a text file is read.
        lines = data.decode().replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return
    site = score_site()
    if _taken_up(site.source, lines, score_site().source):
        _look(site)
    clock = FakeClock()
    clock.now = 3600.0
    store = MemoryStore(Window(3600, 12), clock, 100)
    if _taken_up(store, lines, MemoryStore(Window(3600, 12), clock, 100)):
        clock.pass_time(30)
        charge = Charge(CLIENT, 1)
        finish(store.charge([charge], []))
        assert charge.count >= 1
        [usage] = finish(store.read([CLIENT]))
        assert usage.count >= 1


def _taken_up(part: Persistent, lines: list[str], successor: Persistent) -> bool:
    try:
        part.restore(lines)
    except ValueError:
        return False
    saved = list(part.snapshot())
    successor.restore(saved)
    assert list(successor.snapshot()) == saved
    return True


def _look(site: ScoreSite) -> None:
    source = site.source
    assert source.state
    assert source.budget.used >= source.budget.used_today >= 0
    known = source.peek(CLIENT)
    assert known is None or known.fetched_at >= 0
