"""vLLM as an engine: what it refuses, how it is launched, how its page is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.vllm import ENGINE, ENVIRONMENT
from headrace.facts.constants import measured
from headrace.plan.vllm.constants import parse
from tests.known_models import LLAMA_8B, SMOLLM2

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"

SMALL = replace(SMOLLM2, format="safetensors", weight_bytes=269_030_016, quantization="BF16")
BERT = replace(SMALL, architecture="bert", encoder=True)
MPNET = replace(SMALL, architecture="mpnet", encoder=True)
CPU = {"args": (), "device": "cpu", "cache_bytes": 268_435_456, "dtype": "auto", "cores": "", "tensor_parallel": 1}
PLACEMENT = Placement("chat", "vllm", "generate", "/models/chat", 2048, 4, 2, 2_900_000_000, CPU, python="/envs/vllm/bin/python")
COMMON = (
    *("/envs/vllm/bin/python", "-P", "-m", "vllm.entrypoints.cli.main", "serve", "/models/chat"),
    *("--served-model-name", "chat", "--uds", "/run/chat.sock", "--max-num-seqs", "4", "--shutdown-timeout", "600"),
    *("--disable-uvicorn-access-log", "--disable-fastapi-docs", "--max-model-len", "2048"),
    *("--kv-cache-memory-bytes", "268435456", "--dtype"),
)


def test_it_is_found_by_looking():
    assert engines()["vllm"] is ENGINE


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (SMALL, "generate", None),
        (SMALL, "embed", None),  # any model that generates also embeds: --convert embed
        (BERT, "embed", None),
        (BERT, "rerank", None),
        (BERT, "generate", "bert is an encoder"),
        (MPNET, "embed", "has no mpnet"),
        (SMOLLM2, "generate", "engine: llamacpp"),  # GGUF, with the way out
        (None, "infer", "this is none"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


@pytest.mark.parametrize(
    ("change", "rest"),
    [
        ({}, ("auto", "--enforce-eager", "--enable-prompt-tokens-details")),
        ({"task": "embed"}, ("auto", "--enforce-eager", "--runner", "pooling", "--convert", "embed")),
        ({"task": "rerank"}, ("auto", "--enforce-eager", "--runner", "pooling")),
        ({"options": CPU | {"dtype": "float32"}}, ("float32", "--enforce-eager", "--enable-prompt-tokens-details")),
        # on a GPU it is compiled, and split
        (
            {"options": CPU | {"device": "cuda", "quantization": "awq", "tensor_parallel": 2}},
            ("auto", "--quantization", "awq", "--tensor-parallel-size", "2", "--enable-prompt-tokens-details"),
        ),
        # the user's flags come last, where they win
        (
            {"options": CPU | {"args": ("--max-num-batched-tokens", "512")}},
            ("auto", "--enforce-eager", "--enable-prompt-tokens-details", "--max-num-batched-tokens", "512"),
        ),
        (
            {"adapters": {"poet": "/a/poet", "clerk": "/a/clerk"}},
            (
                *("auto", "--enforce-eager", "--enable-prompt-tokens-details", "--enable-lora", "--max-loras", "4"),
                *("--max-lora-rank", "16", "--lora-modules", "poet=/a/poet", "clerk=/a/clerk"),
            ),
        ),
    ],
)
def test_the_command_says_every_size_in_numbers(change, rest):
    assert ENGINE.launch(replace(PLACEMENT, **change), "unix:/run/chat.sock").argv == COMMON + rest


def test_it_listens_on_loopback_where_there_are_no_sockets():
    argv = ENGINE.launch(PLACEMENT, "http://127.0.0.1:8123").argv
    assert argv[argv.index("--host") :][:4] == ("--host", "127.0.0.1", "--port", "8123")
    assert "--uds" not in argv


def test_without_an_environment_of_its_own_it_runs_in_headraces():
    assert ENGINE.launch(replace(PLACEMENT, python=""), "unix:/s").argv[0] == "python"


def test_its_environment_is_offline_silent_and_closed():
    launch = ENGINE.launch(PLACEMENT, "unix:/s")
    said = {name: value for name, value in launch.environment.items() if value is not None}
    assert said == {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        "VLLM_CPU_OMP_THREADS_BIND": "auto",
    }
    # the empty string crashes a worker: it is taken out, not blanked
    assert launch.environment["VLLM_CPU_KVCACHE_SPACE"] is None
    assert launch.environment["VLLM_SERVER_DEV_MODE"] is None
    assert launch.key_variable == "VLLM_API_KEY"
    assert not any("key" in word for word in launch.argv)


def test_two_on_one_machine_get_cores_of_their_own():
    launch = ENGINE.launch(replace(PLACEMENT, options=CPU | {"cores": "2-3"}), "unix:/s")
    assert launch.environment["VLLM_CPU_OMP_THREADS_BIND"] == "2-3"
    on_gpu = ENGINE.launch(replace(PLACEMENT, options=CPU | {"device": "cuda"}), "unix:/s")
    assert "VLLM_CPU_OMP_THREADS_BIND" not in on_gpu.environment


def test_adapters_can_be_changed_at_runtime_only_where_some_are_asked_for():
    assert ENGINE.launch(PLACEMENT, "unix:/s").environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] is None
    launch = ENGINE.launch(replace(PLACEMENT, adapters={"poet": "/a"}), "unix:/s")
    assert launch.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in ENVIRONMENT


@pytest.mark.parametrize(("task", "path"), [("generate", "completions"), ("embed", "embeddings"), ("rerank", "rerank")])
def test_the_first_request_is_of_the_task(task, path):
    probe = ENGINE.warm(replace(PLACEMENT, task=task))
    assert probe.path == f"/v1/{path}"
    assert json.loads(probe.body)["model"] == "chat"


@pytest.mark.parametrize(
    ("page", "reading"),
    [
        # 16 requests, --max-num-seqs 4: usage is 4 blocks of 90
        ("vllm_metrics_underload.txt", Reading(4, 12, 132, 69, pytest.approx(4 / 90), 11_648)),
        ("vllm_metrics.txt", Reading(0, 0, 2791, 5763, 0.0, 46_592)),
    ],
)
def test_recorded_pages_are_read(page, reading):
    assert ENGINE.read((RECORDED / page).read_text(), "smollm2") == reading


def doubled(page):
    """The page of a server with two engines (data parallel), equally loaded."""
    return page + "\n".join(line.replace('engine="0"', 'engine="1"') for line in page.splitlines() if 'engine="0"' in line)


def test_engines_are_summed_and_their_usage_is_not():
    page = doubled((RECORDED / "vllm_metrics_underload.txt").read_text())
    assert ENGINE.read(page, "smollm2") == Reading(8, 24, 264, 138, pytest.approx(4 / 90), 23_296)


def test_of_another_model_it_knows_nothing():
    page = (RECORDED / "vllm_metrics_underload.txt").read_text()
    found = ENGINE.read(page, "another")
    assert (found.running, found.waiting, found.tokens_out_total, found.cache_usage) == (None, None, None, None)


@pytest.mark.parametrize("gone", ["num_requests_running", "num_requests_waiting", "generation_tokens_total"])
def test_what_is_missing_is_unknown_and_not_zero(gone):
    page = (RECORDED / "vllm_metrics.txt").read_text()
    found = ENGINE.read(page.replace(f"vllm:{gone}", "vllm:renamed"), "smollm2")
    assert [found.running, found.waiting, found.tokens_out_total].count(None) == 1
    assert ENGINE.read("", "smollm2") == Reading()


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ('vllm:gpu_cache_usage_perc{model_name="m"} 0.5', Reading(cache_usage=0.5)),  # until 0.9
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0', Reading(cache_tokens=1600)),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0', Reading()),
    ],
)
def test_what_older_versions_say_is_understood(line, reading):
    assert ENGINE.read(line, "m") == reading


def test_the_plan_and_the_engine_count_the_same():
    assert ENGINE.overhead(SMALL, PLACEMENT) == parse(measured("vllm")).cpu.runtime_bytes.worst
    wide = replace(PLACEMENT, options=CPU | {"dtype": "float32"})
    assert ENGINE.overhead(SMALL, wide) - ENGINE.overhead(SMALL, PLACEMENT) == 4 * SMALL.parameters - SMALL.weight_bytes


def test_memory_of_a_gpu_is_counted_elsewhere():
    assert ENGINE.overhead(LLAMA_8B, replace(PLACEMENT, options=CPU | {"device": "cuda"})) == 0


ARCHITECTURE = """\
  File "/envs/vllm/lib/python3.11/site-packages/pydantic/_internal/_dataclasses.py", line 121, in __init__
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: dict_keys([…]) [type=…]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
""".splitlines()
"""Said by 0.32.0, shortened."""


def test_a_setting_that_is_refused_is_the_cause_and_not_the_address_of_its_manual():
    assert ENGINE.cause(ARCHITECTURE).startswith("Model architectures ['FooForCausalLM'] are not supported for now.")


CORE = """\
(EngineCore pid=42) ERROR 11-27 22:30:01 [core.py:1510] EngineCore failed to start.
(EngineCore pid=42) ERROR 11-27 22:30:01 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=42) ERROR 11-27 22:30:01 [core.py:1510]   File "/envs/vllm/…/weight_utils.py", line 900, in load
(EngineCore pid=42) ERROR 11-27 22:30:01 [core.py:1510] safetensors_rust.SafetensorError: Error while deserializing header
Process EngineCore:
Traceback (most recent call last):
safetensors_rust.SafetensorError: Error while deserializing header
Traceback (most recent call last):
  File "/envs/vllm/bin/vllm", line 8, in <module>
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
""".splitlines()
"""Made after the source of 0.32.0 (v1/engine/core.py, v1/engine/utils.py)."""


def test_what_its_server_only_points_to_is_the_cause():
    assert ENGINE.cause(CORE) == "safetensors_rust.SafetensorError: Error while deserializing header"
    assert ENGINE.cause(CORE[:4] + CORE[-1:]) == "safetensors_rust.SafetensorError: Error while deserializing header"
    assert ENGINE.cause(CORE[-1:]) is None


@pytest.mark.parametrize("lines", [[], ["ValueError: its last line says it"], [*ARCHITECTURE, *["INFO served"] * 20, "Killed"]])
def test_where_the_last_line_says_it_or_nothing_does_no_cause_is_named(lines):
    assert ENGINE.cause(lines) is None
