"""ONNX graphs from a hub and from a URL: planned without being fetched, pulled, and served by a real Triton without a network."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.engines import engines
from headrace.environments import folder_of, how_to_install, installed
from headrace.testing.hub import FakeHub
from headrace.weights.cache import default_root
from tests.contract import onnx_writer
from tests.e2e.test_faults import Start

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

TRITON = engines()["triton"]
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A cache of its own, with the Triton that is installed; set for this process as well."""
    if "triton" not in installed(engines(), default_root()):
        pytest.skip(how_to_install(TRITON))
    found = {"HEADRACE_TRITON": folder_of(TRITON, default_root()), "HEADRACE_CACHE": str(tmp_path / "cache")}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def y(url: str, model: str) -> Any:
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/infer", json.dumps(ROW).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=240) as answer:
        return next(each["data"] for each in json.loads(answer.read())["outputs"] if each["name"] == "y")


async def test_graphs_from_a_hub_and_a_url_are_pulled_once_and_served_offline(
    environment: dict[str, str],
    serve: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph, data = onnx_writer.outside("model.onnx_data")
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        commit = hub.add("org/fraud", {"onnx/model.onnx": graph, "onnx/model.onnx_data": data, "model.safetensors": b"x"})
        hub.files["/churn.onnx"] = ("application/octet-stream", onnx_writer.linear())
        yaml = f"models: {{fraud: {{source: 'hf:org/fraud', engine: triton}}, churn: '{hub.url}/churn.onnx'}}"
        (tmp_path / "headrace.yaml").write_text(yaml)
        file = str(tmp_path / "headrace.yaml")
        assert await asyncio.to_thread(main, ["plan", file]) == 0
        said = capsys.readouterr().out
        assert said.count("engine") >= 2
        assert "serves onnx files" in said
        assert hub.downloads("model.onnx") == hub.downloads("_data") == 0
        assert await asyncio.to_thread(main, ["pull", file]) == 0
        fetched = hub.downloads()
        served = serve(yaml=yaml, environment={**environment, "HF_ENDPOINT": hub.url})
        served.wait_for("Listening on", 240)
        assert f"curl {served.url}/v2/models/fraud " in served.output
        assert await asyncio.to_thread(y, served.url, "fraud") == [30.0, 14.0]
        assert hub.downloads() == fetched
        served.close()
    assert f"source: hf:org/fraud@{commit}" in (tmp_path / "headrace.lock").read_text()
    away = serve(yaml=yaml, environment={**environment, "HF_ENDPOINT": "http://127.0.0.1:1"})
    away.wait_for("Listening on", 240)
    answers = await asyncio.gather(*(asyncio.to_thread(y, away.url, name) for name in ("fraud", "churn") for _ in range(4)))
    assert answers == [[30.0, 14.0]] * 8


async def test_what_runs_code_is_refused_before_anything_is_fetched(environment: dict[str, str], serve: Start) -> None:
    with FakeHub() as hub:
        hub.add("org/m", {"model.py": b"raise SystemExit", "model.pkl": b"x"})
        for source, said in (
            ("{source: 'hf:org/m:model.py', engine: triton}", "is code, and such files are taken from this machine only"),
            ("{source: 'hf:org/m:model.pkl', engine: {triton: {pickle: true}}}", "a pickle can run code when loaded"),
            ("{source: 'hf:org/m', engine: triton}", "may be a pickle"),
        ):
            refused = serve(yaml=f"models: {{m: {source}}}", environment={**environment, "HF_ENDPOINT": hub.url})
            assert await asyncio.to_thread(refused.end) != 0
            assert said in refused.output
        assert hub.downloads() == 0
