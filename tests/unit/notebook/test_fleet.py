"""`headrace.Fleet` without a kernel: what is imported when, types, errors, inside a running loop."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from headrace import Fleet
from headrace.errors import HeadraceError, SpecError, UsageError
from headrace.notebook.result import Result
from headrace.report import UnreachableError
from tests.fake_process import fake_engine

ROOT = Path(__file__).parents[3]
LLAMA = "hf:meta-llama/Meta-Llama-3.1-8B"
REPLICA = "slots=2,prefill=1000,step=20ms,each=1ms"
SNIPPET = """
from headrace import Fleet
fleet = Fleet("headrace.yaml", url="http://127.0.0.1:8000")
reveal_type(fleet.status().value.models[0].waiting)
reveal_type(fleet.bench(concurrency=[1]).value.stages[0].ok)
reveal_type(fleet.simulate("trace.csv").value[0].policy)
reveal_type(Fleet.from_models({"chat": "x"}).history().value.since)
fleet.plan(machines="A100")
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text("timestamp,input_tokens,output_tokens\n" + "".join(f"{at},200,40\n" for at in range(100)))
    return file


def answer() -> Result[int]:
    return Result(7, "seven\n", ({"at": 0.0, "name": "<b>", "value": None},))


def test_importing_headrace_imports_nothing_else() -> None:
    code = "import sys, headrace; print(*sorted(name for name in sys.modules if name.startswith('headrace')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["headrace"]


def test_asking_for_a_fleet_imports_neither_pandas_nor_matplotlib() -> None:
    code = "import sys; from headrace import Fleet; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"pandas", "matplotlib"}.isdisjoint(loaded)
    assert "headrace.notebook.fleet" in loaded


def test_what_headrace_does_not_have_is_an_attribute_error() -> None:
    import headrace

    with pytest.raises(AttributeError, match="no attribute 'Flete'"):
        headrace.Flete  # noqa: B018
    assert "Fleet" in dir(headrace)


@pytest.mark.timeout(600)  # mypy reads the whole package when it has not yet
def test_a_users_program_is_checked_with_types(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SNIPPET)
    cache = ROOT / ".mypy_cache" / "users"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "program.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert re.findall(r'Revealed type is "([^"]+)"', said) == ["int", "int", "str", "float"], said
    assert 'Unexpected keyword argument "machines"' in said


def test_results_are_frozen_and_show_themselves() -> None:
    result = answer()
    with pytest.raises(FrozenInstanceError):
        result.value = 8  # type: ignore[misc]
    assert repr(result) == str(result) == "seven\n"
    html = result._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<td>–</td>" in html
    assert "<b>" not in html


def test_frames_have_times() -> None:
    pytest.importorskip("pandas")
    frame = answer().frame()
    assert str(frame["at"].dtype).startswith("datetime64")
    assert str(frame["at"][0]) == "1970-01-01 00:00:00+00:00"


@pytest.mark.parametrize(("package", "ask"), [("pandas", "frame"), ("matplotlib", "plot")])
def test_what_is_not_installed_is_told_with_the_command_that_installs_it(
    package: str, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HeadraceError, match=rf'{package}, which is not installed. pip install "headrace\[notebook\]"'):
        getattr(Result(1, "", (), lambda axes: None), ask)()


def test_a_result_without_a_picture_says_so() -> None:
    with pytest.raises(HeadraceError, match="nothing to draw"):
        answer().plot()


def test_axes_that_are_given_are_drawn_on() -> None:
    figures = pytest.importorskip("matplotlib.figure")
    axes = figures.Figure().subplots()
    assert Result(1, "", (), lambda on: on.set_title("here")).plot(axes) is axes
    assert axes.get_title() == "here"


def test_models_without_a_file_are_checked_as_a_files() -> None:
    with pytest.raises(SpecError, match=r"from_models:.*nosuch"):
        Fleet.from_models({"chat": {"source": LLAMA, "engine": "nosuch"}}).spec  # noqa: B018


def test_a_gateway_alone_plans_nothing_and_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"Fleet\.from_models"):
        Fleet(url="http://127.0.0.1:1").plan("A100-80GB")


def test_no_gateway_is_the_error_of_the_command() -> None:
    with pytest.raises(UnreachableError, match=r"No gateway answers at http://127\.0\.0\.1:1"):
        Fleet(url="http://127.0.0.1:1").status()


def test_a_key_is_in_no_text_of_a_fleet() -> None:
    assert "secret" not in repr(Fleet(url="http://127.0.0.1:1", key="secret"))


def test_what_it_is_for_needs_a_machine_that_is_asked_about() -> None:
    with pytest.raises(UsageError, match="users=5 needs a machine"):
        Fleet.from_models({"chat": LLAMA}, offline=True).plan(users=5)


def test_seconds_may_be_numbers_or_texts() -> None:
    fleet = Fleet.from_models({"chat": LLAMA}, offline=True)
    assert fleet.plan("A100-80GB", users=5, ttft=0.5).text == fleet.plan("A100-80GB", users=5, ttft="500ms").text


async def test_planning_and_simulating_work_inside_a_running_loop(trace: Path) -> None:
    fleet = Fleet.from_models({"chat": LLAMA}, offline=True)
    offers = fleet.plan("A100-80GB", users=5)
    assert offers.rows[0]["machine"] == "1 x A100-80GB"
    compared = fleet.simulate(trace, ["headrace", "fixed:2"], replica=REPLICA)
    assert [row["policy"] for row in compared.rows] == ["headrace", "fixed:2"]
    assert compared.value[0].points


def test_the_history_that_is_kept_here_says_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    fleet = Fleet.from_models({"chat": LLAMA})
    assert fleet.history().text == "No history is kept here."
    with pytest.raises(UsageError, match="There are 15m"):
        fleet.history(span="2h")
    with pytest.raises(UsageError, match='no model "other"'):
        fleet.history("other")


@pytest.fixture
def engine() -> Iterator[str]:
    """The address of a fake engine: a process of its own, for the calls under test hold the loop that they are in."""
    with fake_engine("--slots", "4", "--tokens", "8") as address:
        yield address


async def test_a_bench_works_inside_a_running_loop(engine: str) -> None:
    result = Fleet(url=engine).bench(concurrency=[2], prompt=20, output=4, requests=6, warmup=0)
    assert (result.rows[0]["load"], result.value.stages[0].ok) == ("2 at once", 6)
    assert result.rows[0]["output_tokens_per_second"] > 0


def test_a_bench_inside_a_running_loop_that_is_interrupted_tells_what_was_measured(engine: str) -> None:
    def interrupt() -> None:
        until = time.monotonic() + 60
        while written() < 200 and time.monotonic() < until:  # a probe and a few requests
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def written() -> int:
        with urllib.request.urlopen(engine + "/metrics", timeout=10) as answer:
            found = re.search(rb"tokens_predicted_total (\d+)", answer.read())
        assert found
        return int(found[1])

    async def cell() -> Result[Any]:
        return Fleet(url=engine).bench(concurrency=[2], prompt=20, output=4, duration=600, warmup=0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a kernel
    loop, thread = asyncio.new_event_loop(), Thread(target=interrupt)
    try:
        thread.start()
        result = loop.run_until_complete(cell())
    finally:
        thread.join(30)
        loop.close()
        signal.signal(signal.SIGINT, before)
    assert result.value.interrupted
    assert result.value.stages[0].ok > 0


def test_what_keeps_the_limit_at_least_cost_is_suggested(trace: Path) -> None:
    fleet = Fleet.from_models({"chat": LLAMA}, offline=True)
    found = fleet.suggest(trace, replica=REPLICA, cold_start="1s", replicas="1..4", times=2)
    assert found.value.meets
    assert found.rows[0]["replicas"] == f"{found.value.policy.least}..4"
    assert f"scale: {{queue: {found.rows[0]['queue']}" in found.text
    with pytest.raises(UsageError, match="--times: 0"):
        fleet.suggest(trace, replica=REPLICA, times=0)


def test_a_bench_takes_what_the_command_takes(engine: str, trace: Path) -> None:
    result = Fleet(url=engine).bench(trace=trace, speed=50, context=512, slo="ttft=20s", share=0.9, api="completions")
    stage = result.value.stages[0]
    assert (stage.label, stage.requests, stage.ok) == ("trace × 50", 100, 100)
    assert result.rows[0]["goodput"] == 1.0
