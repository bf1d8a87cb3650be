"""The pages of `headrace gateway`, in a real browser: what a gateway in a cluster knows, and who knows the rest."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace.targets.http import ask, get
from tests.e2e.test_cluster_gateway import Cluster, Gateway, cluster

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

__all__ = ["cluster"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.real, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")]
LONG = 20_000
KEY = "a-key-for-administrators"


@asynccontextmanager
async def opened(gateway: Gateway, **context: Any) -> AsyncIterator[Any]:
    """A page of the gateway; afterwards nothing was wrong on it."""
    async with playwright.async_playwright() as started:
        playwright.expect.set_options(timeout=LONG)
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = await (await browser.new_context(base_url=gateway.address, **context)).new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda one: wrong.append(one.text) if one.type == "error" and "401" not in one.text else None)
        yield page
        await browser.close()
        assert not wrong


async def test_pods_are_shown_as_they_are_and_what_the_cluster_decides_is_left_to_it(cluster: Cluster) -> None:
    await cluster.pod("chat-a")
    gateway = await cluster.gateway()
    await gateway.listens()
    await gateway.until(phase="ready")
    async with opened(gateway, viewport={"width": 390, "height": 800}, color_scheme="dark") as page:
        await page.goto("/")
        await playwright.expect(page.locator("#models tr")).to_have_count(1)
        await playwright.expect(page.locator("#link")).to_have_text("live")
        await playwright.expect(page.locator("#shown")).to_contain_text("Pods are the cluster's")
        await playwright.expect(page.locator("#shown")).to_contain_text("headrace plan --machine")
        assert await page.get_by_role("link", name="Plan").count() == 0
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.goto("/dashboard/model/chat")
        await playwright.expect(page.locator("#shown table")).to_contain_text("chat-a")
        assert await page.get_by_role("heading", name="Replicas by hand").count() == 0
        assert await page.locator("#curves, #graduation, #decisions").count() == 0
    refused = await ask(gateway.address, "POST", "/admin/wanted", b"model=chat&want=2", 10)
    assert refused.status == 400
    assert b"kubectl scale" in refused.body
    assert (await get(gateway.address, "/dashboard/plan", 10)).status == 404


async def test_with_keys_the_pages_ask_for_one(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_KEYS", f"admin={KEY}")
    await cluster.pod("chat-a")
    gateway = await cluster.gateway(gateway={"listen": "127.0.0.1:0", "drain": 10, "keys": "env:CLUSTER_KEYS"})
    await gateway.listens()
    async with opened(gateway) as page:
        await page.goto("/")
        await page.get_by_label("Key", exact=True).fill(KEY)
        assert await page.locator("#models").count() == 0
        await page.get_by_role("button", name="Use key").click()
        await playwright.expect(page.locator("#models tr")).to_have_count(1)
