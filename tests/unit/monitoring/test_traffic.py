"""Decisions by the minute."""

from pathlib import Path

from fakes import START, site

from senderscore_policy.monitoring.statistics import MINUTES, Minute

FIRST = int(START // 60 * 60)
"""The minute in which each daemon starts."""
LIMITED = '[[override]]\nnetworks = ["192.0.2.0/24"]\nscore = 75\n[[tier]]\nscores = "0-100"\nlimit = 3\n'


async def test_each_minute_has_its_decisions(tmp_path: Path) -> None:
    """Each minute has its accepted and deferred messages by tier; the current minute is the last one."""
    async with site(tmp_path, LIMITED) as daemon:
        await daemon.send("192.0.2.75", 2)
        daemon.pass_time(60)
        await daemon.send("192.0.2.75", 3)
        await daemon.send("127.0.0.1", 1)
        daemon.pass_time(120)
        assert daemon.traffic.last_hour() == [
            Minute(FIRST, {"0-100": 2}, {}),
            Minute(FIRST + 60, {"0-100": 1, "none": 1}, {"0-100": 2}),
            Minute(FIRST + 120, {}, {}),
            Minute(FIRST + 180, {}, {}),
        ]


async def test_an_hour_is_remembered(tmp_path: Path) -> None:
    """Older minutes are dropped, from memory too."""
    async with site(tmp_path, LIMITED) as daemon:
        await daemon.send("192.0.2.75", 2)
        daemon.pass_time(60 * MINUTES)
        hour = daemon.traffic.last_hour()
        assert len(hour) == MINUTES
        assert hour[0] == Minute(FIRST + 60, {}, {})
        assert len(daemon.traffic._starts) <= MINUTES + 1


async def test_a_minute_that_nobody_noted_loses_no_decision(tmp_path: Path) -> None:
    """A machine that slept counts what follows for the minute before; the minutes between are empty."""
    async with site(tmp_path, LIMITED) as daemon:
        daemon.pass_time(60)
        daemon.clock.pass_time(180)
        await daemon.send("192.0.2.75", 2)
        hour = daemon.traffic.last_hour()
        assert [minute.start for minute in hour] == [FIRST + 60 * n for n in range(5)]
        assert sum(sum(minute.passed.values()) for minute in hour) == 2


async def test_a_clock_that_steps_back_is_survived(tmp_path: Path) -> None:
    """After a step of the clock the chart starts again."""
    async with site(tmp_path, LIMITED) as daemon:
        await daemon.send("192.0.2.75", 2)
        daemon.pass_time(600)
        daemon.clock.now -= 3000
        assert daemon.traffic.last_hour() == [Minute(FIRST + 600 - 3000, {}, {})]
        daemon.pass_time(60)
        await daemon.send("192.0.2.75", 1)
        assert [minute.passed for minute in daemon.traffic.last_hour()] == [{"0-100": 1}]
