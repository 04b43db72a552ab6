#!/usr/bin/env python3
"""Make the pictures of the status page: status_page.py DIRECTORY.

An hour of mail is simulated and decided by the real engine; Chromium shows the page. Needs playwright, and Pillow to
make the files small.
"""

import asyncio
import functools
import io
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import sync_playwright

from senderscore_policy.web import page
from senderscore_policy.web.status import ClientDetails, Status

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import fakes

BUSY: Final = "198.51.100.77"
HOST: Final = "mx1.example.org"
MINUTES: Final = 66
STEP: Final = 10
"""Seconds from one batch of messages to the next."""
BURST: Final = range(36, 45)
"""The minutes in which one client sends more than it may in an hour."""
CONFIGURATION: Final = """
[[override]]
networks = ["2001:db8:25::/48"]
limit = 250
"""
# Name, score (None: the zone has none) and messages a minute.
CLIENTS: Final = (
    ("out-1.newsletter.example", 97, 21.0), ("out-2.newsletter.example", 96, 13.0), ("mail.shop.example", 88, 11.0),
    ("mta4.bulk.example", 38, 10.0), ("mta5.bulk.example", 44, 9.5), ("smtp.university.example", 93, 9.0),
    ("relay.isp.example", 72, 14.5), ("cpe-17.dsl.example", 3, 6.0), ("vps12.hosting.example", 8, 2.5),
    ("vps31.hosting.example", 17, 3.2), ("mx.insurance.example", 99, 4.0), ("lists.project.example", None, 6.0),
    ("mail.school.example", 81, 1.8), ("mx.museum.example", 98, 1.1), ("mail.bakery.example", 66, 1.5),
)  # fmt: skip


async def simulated() -> tuple[Status, ClientDetails]:
    """The status after an hour of mail, with one newsletter and one client that stopped half an hour ago.

    The details are those of the client with a burst.
    """
    chance = random.Random(7)  # noqa: S311 - the same picture each time
    fakes.FakeClock = functools.partial(fakes.FakeClock, time.time() // 60 * 60 - 60 * MINUTES)
    senders = [(f"198.51.100.{number}", *client) for number, client in enumerate(CLIENTS, 10)]
    senders += [
        (f"203.0.113.{number}", f"host{number}.example.net", chance.choice((95, 97, 99, 78, None)), 0.08)
        for number in range(1, 90)
    ]
    scores = {address: score for address, _, score, _ in senders if score is not None} | {BUSY: 24}
    senders.append(("2001:db8:25::19", "mx6.partner.example", None, 4.6))
    async with fakes.site(Path(tempfile.mkdtemp()), CONFIGURATION, scores) as daemon:
        for minute in range(MINUTES):
            wave = 0.8 + 0.4 * chance.random() + (0.9 if 22 < minute < 34 else 0)
            for _ in range(0, 60, STEP):
                for address, name, _, rate in senders:
                    expected = rate * wave * STEP / 60 * (minute < 40 or name != "vps12.hosting.example")
                    if messages := int(expected) + (chance.random() < expected % 1):
                        await daemon.send(address, messages, client_name=name)
                await daemon.send("127.0.0.1", chance.randint(0, 1))
                if minute in BURST:
                    await daemon.send(BUSY, 16, client_name="promotion.shop.example")
                daemon.pass_time(STEP)
            if minute == MINUTES - 2:
                await daemon.state.save()
        daemon.pass_time(7)
        return await daemon.status(), await daemon.collector.details(daemon.client(BUSY))


def picture(browser: Any, html: str, **options: Any) -> bytes:
    """The page as a visitor sees it first."""
    context = browser.new_context(**options)
    tab = context.new_page()
    tab.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
    tab.goto(f"http://{HOST}:10046/")
    taken: bytes = tab.screenshot()
    context.close()
    return taken


def main(directory: Path) -> None:
    """Write the pictures."""
    page.socket.gethostname = lambda: HOST
    status, details = asyncio.run(simulated())
    html = page.render(status, page.View(), status.rows, status.clients)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desktop = {"viewport": {"width": 1280, "height": 1010}}
        phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
        pictures = {
            "status-page.png": picture(browser, html, **desktop),
            "client-page.png": picture(browser, page.render_client(status, details), **desktop),
            "status-page-phone.png": picture(browser, html, **phone, color_scheme="dark"),
        }
        browser.close()
    for name, taken in pictures.items():
        Image.open(io.BytesIO(taken)).convert("RGB").quantize(255, dither=Image.Dither.NONE).save(
            directory / name, optimize=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
