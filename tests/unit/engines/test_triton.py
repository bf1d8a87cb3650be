"""Triton as an engine: what it refuses, how it is launched, how its page is read, what containers get."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines, triton_config
from headrace.engines.base import Placement, Reading
from headrace.engines.triton import ENGINE
from headrace.engines.triton_config import Config, Tensor
from tests.known_models import SMOLLM2

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"
ENGINES = engines()
TENSORS = Placement(
    "fraud", "triton", "infer", "/models/fraud.onnx", 0, 8, 2, 0, {"kind": "onnx", "queue": 9}, "/environments/triton/bin/python"
)
TEXT = replace(
    TENSORS, model="chat", task="generate", weights="/models/chat.gguf", context=2048, slots=4, options={"kind": "gguf"}
)


def test_it_is_found_by_looking():
    assert engines()["triton"] is ENGINE


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (None, "infer", None),
        (SMOLLM2, "generate", None),
        (None, "generate", "this is none: set `task: infer`"),
        (SMOLLM2, "infer", "set `task: generate`"),
        (SMOLLM2, "embed", "use llamacpp"),
        (None, "rerank", "no API to rerank"),
        (replace(SMOLLM2, format="safetensors"), "generate", "this is safetensors: name a GGUF of it, or use vllm"),
        (replace(SMOLLM2, encoder=True), "generate", "is an encoder"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


def test_the_runner_gets_all_that_the_placement_says():
    launch = ENGINE.launch(TENSORS, "http://127.0.0.1:4711")
    assert launch.argv[:4] == ("python", "-P", "-m", "headrace.runners.triton")
    assert json.loads(launch.argv[4]) == {
        "name": "fraud",
        "model": "/models/fraud.onnx",
        "kind": "onnx",
        "address": "http://127.0.0.1:4711",
        "python": "/environments/triton/bin/python",
        "batch": 8,
        "delay_seconds": 0.002,
        "queue": 9,
        "instances": 1,
        "threads": 2,
        "context": 0,
        "slots": 8,
    }
    assert launch.metrics_address == "http://127.0.0.1:4712"
    assert launch.key_variable is None  # it knows none
    text = ENGINE.launch(TEXT, "http://127.0.0.1:4711")
    assert (text.metrics_address, text.key_variable) == ("http://127.0.0.1:4713", "ENGINE_KEY")  # llama.cpp does


def test_text_is_warmed_by_a_token_and_speaks_generate():
    probe = ENGINE.warm(TEXT)
    assert probe.path == "/v2/models/chat/generate"
    assert json.loads(json.loads(probe.body)["sampling_parameters"])["max_tokens"] == 1
    assert (ENGINE.speaks(TEXT), ENGINE.speaks(TENSORS), ENGINE.warm(TENSORS)) == ("generate", "v2", None)


@pytest.mark.parametrize(
    ("page", "model", "reading"),
    [
        ("triton_metrics.txt", "batcher", Reading(waiting=0)),
        ("triton_metrics.txt", "nobody", Reading()),  # unknown, not zero
        # of text it is llama.cpp's page: Triton's own count of pending requests would say 0
        ("llamacpp_metrics.txt", "m", ENGINES["llamacpp"].read((RECORDED / "llamacpp_metrics.txt").read_text(), "m")),
    ],
)
def test_the_recorded_pages_are_read(page, model, reading):
    assert ENGINE.read((RECORDED / page).read_text(), model) == reading


def test_a_queue_is_that_of_its_model_only():
    lines = [f'nv_inference_pending_request_count{{model="{name}",version="1"}} {count}' for name, count in (("a", 3), ("b", 5))]
    page = "\n".join(lines) + "\n"
    assert ENGINE.read(page, "a").waiting == 3
    two = page.replace('"b",version="1"', '"a",version="2"')  # of all its versions
    assert ENGINE.read(two, "a").waiting == 8


def test_quantiles_of_nothing_are_no_obstacle():
    page = 'nv_inference_queue_summary_us{model="a",quantile="0.5"} Nan\nnv_inference_pending_request_count{model="a"} 1\n'
    assert ENGINE.read(page, "a").waiting == 1


@pytest.mark.parametrize(
    ("placement", "facts", "measured_mb"),
    [
        (TENSORS, None, 24 + 37 + 68),
        (replace(TENSORS, options={"kind": "sklearn"}), None, 24 + 37 + 140),
        (replace(TENSORS, options={"kind": "python"}), None, 24 + 37 + 37),
        (replace(TENSORS, options={"kind": "repository"}, also=("a", "b", "c")), None, 24 + 40 + 3 * 41),
        (replace(TEXT, slots=2, context=256), SMOLLM2, 24 + 37 + 190 - 85 - 12),  # less weights and KV cache
    ],
)
def test_memory_is_counted_as_measured_and_never_below(placement, facts, measured_mb):
    counted = ENGINE.overhead(facts, placement)
    assert measured_mb * 1e6 <= counted <= measured_mb * 1e6 + 120e6


def test_each_instance_is_a_process():
    one, four = (ENGINE.overhead(None, replace(TENSORS, options={"kind": "onnx", "instances": count})) for count in (1, 4))
    assert math.isclose(four - one, 3 * 85e6)


# ---- containers; none of these is run here

GOLDEN_VLLM = {
    "chat/config.pbtxt": """backend: "vllm"
max_batch_size: 0
instance_group { kind: KIND_MODEL count: 1 }
parameters { key: "REPORT_CUSTOM_METRICS" value { string_value: "true" } }
""",
    "chat/1/model.json": """{
  "disable_log_stats": false,
  "max_model_len": 4096,
  "model": "/models/weights"
}
""",
}

GOLDEN_LLMAPI = {
    "tensorrt_llm/config.pbtxt": """backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
instance_group { kind: KIND_CPU count: 1 }
""",
    "tensorrt_llm/1/model.yaml": """{
  "backend": "pytorch",
  "model": "/models/weights",
  "tensor_parallel_size": 2,
  "triton_config": {
    "decoupled": true,
    "max_batch_size": 0
  }
}
""",
}

GOLDEN_ONNX = {
    "fraud/config.pbtxt": """backend: "onnxruntime"
max_batch_size: 16
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "label" data_type: TYPE_STRING dims: [ 1 ] }
instance_group { kind: KIND_CPU count: 2 }
dynamic_batching { max_queue_delay_microseconds: 2000 default_queue_policy { max_queue_size: 64 timeout_action: REJECT } }
""",
}

ONNX = Config(
    "", (Tensor("x", "FP32", (4,)),), (Tensor("label", "BYTES", (1,)),), batch=16, delay_seconds=0.002, queue=64, instances=2
)


@pytest.mark.parametrize(
    ("name", "backend", "config", "arguments", "files"),
    [
        ("chat", "vllm", Config(""), {"model": "/models/weights", "max_model_len": 4096}, GOLDEN_VLLM),
        ("tensorrt_llm", "tensorrt_llm", Config(""), {"model": "/models/weights", "tensor_parallel_size": 2}, GOLDEN_LLMAPI),
        ("fraud", "onnxruntime", ONNX, None, GOLDEN_ONNX),
    ],
)
def test_repositories_of_containers(name, backend, config, arguments, files):
    assert triton_config.repository(name, backend, config, arguments) == files


def test_the_command_of_a_container_closes_what_could_change_it():
    argv = triton_config.command(["chat", "fraud"])
    assert argv[0] == "tritonserver"
    assert ("--load-model=chat" in argv, "--load-model=fraud" in argv) == (True, True)
    (closed,) = (each for each in argv if each.startswith("--http-restricted-api="))
    assert {"shared-memory", "model-repository"} <= set(closed.partition("=")[2].partition(":")[0].split(","))
    assert "--allow-grpc=false" in argv


def test_every_backend_has_an_image():
    assert set(triton_config.IMAGES) == {"onnxruntime", "vllm", "tensorrt_llm"}
