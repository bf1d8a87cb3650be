"""The overview with 200 busy models and a week of history: first paint, its bytes, what an hour left open costs, and how soon a
scale event is on the page while every row changes.

    python benchmarks/dashboard.py [--models 200] [--seconds 60]

Needs Chromium and playwright. The hour is what `--seconds` took after the first burst, times 3600 / seconds.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from headrace.control.recording import opened
from headrace.dashboard.app import Dashboard
from headrace.dashboard.past import curves
from headrace.dashboard.sight import Sight
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.traffic import ModelStatus

EVENTS = 20


def history(file: Path, now: float) -> None:
    """A week of one model: two days by the second, the rest by the minute."""
    ages = [*range(1, 172_800), *range(172_800, 604_800, 60)]
    connection = opened(file)
    with connection:
        connection.executemany(
            f"INSERT INTO samples VALUES ({', '.join('?' * 17)})",
            (
                (now - age, 0.0, "model-000", 1.0, random.randrange(9), 1, 1, 1, 0, 1, 5, 10, 0.1, 0.01, None, None, None)
                for age in ages
            ),
        )
    connection.close()


async def served(models: int, file: Path) -> tuple[str, Gateway, list[tuple[float, str, str]]]:
    """The pages of a gateway without engines; its list of decisions."""
    decisions: list[tuple[float, str, str]] = []
    control: Any = SimpleNamespace(
        plan=None, absent="", replicas=(), decisions=decisions, wanted={}, wishes={}, scaled={},
        choices=lambda model: (), moves=lambda model: (), wish=lambda *asked: "", logs=lambda *asked: [],
    )  # fmt: skip
    admin = Admin(control, {}, control)
    statuses = [ModelStatus(f"model-{one:03}", "generate", "ready", "2 of 2 replicas ready") for one in range(models)]
    gateway = admin.gateway = Gateway(Limits(8, 8.0, 1 << 20), statuses, {}, admin.app)
    Dashboard(Sight(admin, control, file)).mount()
    host, port = await gateway.listen("127.0.0.1", 0)
    return f"http://{host}:{port}", gateway, decisions


async def busy(gateway: Gateway) -> None:
    """Every model answers something new four times a second."""
    while True:
        for model in gateway.models.values():
            model.stats.first_token(random.random())
            model.stats.tokens(10, random.randrange(1, 200), random.random())
        await asyncio.sleep(0.25)


async def streamed(url: str, seconds: float) -> int:
    """Bytes that a page is sent, the first burst left out."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /admin/pages/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    count, settled = 0, time.monotonic() + 15
    until = settled + seconds
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < until:
            data = await asyncio.wait_for(reader.read(65536), until - time.monotonic())
            count += len(data) if time.monotonic() >= settled else 0
    writer.close()
    return count


async def seen(url: str, gateway: Gateway, decisions: list[tuple[float, str, str]]) -> dict[str, float]:
    """Milliseconds to the first paint and to the whole table, and bytes over the wire, with an empty cache; then seconds from
    scale events until both decision and new state are on the page, which is looked at each frame.
    """
    from playwright.async_api import async_playwright

    async with async_playwright() as started:
        browser = await started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(url + "/")
        await page.wait_for_selector("#models tr:last-child")
        found = dict(
            await page.evaluate(
                "({paint: performance.getEntriesByName('first-contentful-paint')[0].startTime, table: performance.now(),"
                " bytes: [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
                ".reduce((sum, one) => sum + one.transferSize, 0)})"
            )
        )
        took = []
        for event in range(EVENTS):
            await asyncio.sleep(random.uniform(1, 3))
            name, said = f"model-{event:03}", f"2 → 1 replicas, event {event}"
            began = time.monotonic()
            decisions.append((began, name, said))
            gateway.update([ModelStatus(name, "generate", "loading", "1 of 2 replicas ready")], [])
            await page.wait_for_function(
                "([name, said]) => document.querySelector('#decisions').textContent.includes(said)"
                " && [...document.querySelectorAll('#models tr')]"
                ".some(row => row.textContent.includes(name) && row.textContent.includes('loading'))",
                arg=[name, said],
            )
            took.append(time.monotonic() - began)
        await browser.close()
    return found | {"event": median(took), "latest_event": max(took)}


async def measured(models: int, seconds: float, folder: Path) -> dict[str, float]:
    file = folder / "history.db"
    await asyncio.to_thread(history, file, time.time())
    url, gateway, decisions = await served(models, file)
    load = asyncio.create_task(busy(gateway))
    try:
        found = await seen(url, gateway, decisions)
        began = time.monotonic()
        await asyncio.to_thread(curves, file, "model-000", 604_800)
        week = time.monotonic() - began
        used = time.process_time()
        count = await streamed(url, seconds)
        cpu = (time.process_time() - used) / (seconds + 15)
    finally:
        load.cancel()
        gateway.close()
    return {
        "models": models,
        "first_paint_ms": round(found["paint"]),
        "table_ms": round(found["table"]),
        "page_kb": round(found["bytes"] / 1000, 1),
        "event_ms_median": round(1000 * found["event"]),
        "event_ms_most": round(1000 * found["latest_event"]),
        "week_of_history_ms": round(week * 1000),
        "mb_per_hour": round(count * 3600 / seconds / 1e6, 2),
        "cpu_with_the_load_made": round(cpu, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measured(asked.models, asked.seconds, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
