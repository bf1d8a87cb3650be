"""SGLang as an engine, as its source says it is: it was not run by us."""

from dataclasses import replace

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.sglang import ENGINE, START
from tests.known_models import LLAMA_8B, SMOLLM2

PLACEMENT = Placement("chat", "sglang", "generate", "/models/chat", 8192, 32, 8, 0, python="/envs/sglang/bin/python")

# The names and labels of srt/observability/metrics_collector.py, two data-parallel ranks.
PAGE = """
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 5.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 3.0
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 2.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.0
sglang:token_usage{dp_rank="0",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.5
sglang:token_usage{dp_rank="1",engine_type="unified",model_name="chat",moe_ep_rank="0",pp_rank="0",tp_rank="0"} 0.9
sglang:max_total_num_tokens{dp_rank="0",engine_type="unified",model_name="chat"} 1000.0
sglang:max_total_num_tokens{dp_rank="1",engine_type="unified",model_name="chat"} 1000.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="true",model_name="chat"} 70.0
sglang:prompt_tokens_total{engine_type="unified",is_streaming="false",model_name="chat"} 30.0
sglang:generation_tokens_total{engine_type="unified",is_streaming="true",model_name="chat"} 40.0
"""


def test_it_is_found_by_looking():
    assert engines()["sglang"] is ENGINE


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (LLAMA_8B, "generate", None),
        (LLAMA_8B, "embed", None),
        (replace(LLAMA_8B, architecture="bert", encoder=True), "generate", "bert is an encoder"),
        (SMOLLM2, "generate", "this model is GGUF"),
        (None, "infer", "this is none"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


def test_the_command_and_its_key():
    options = {"tensor_parallel": 2, "quantization": "fp8", "cache_tokens": 300_000, "args": ("--chunked-prefill-size", "4096")}
    launch = ENGINE.launch(replace(PLACEMENT, options=options), "http://127.0.0.1:30001")
    assert launch.argv == (
        *("/envs/sglang/bin/python", "-P", "-c", START, "--model-path", "/models/chat", "--served-model-name", "chat"),
        *("--host", "127.0.0.1", "--port", "30001", "--max-running-requests", "32", "--enable-metrics"),
        *("--log-level-http", "warning", "--device", "cuda", "--context-length", "8192", "--max-total-tokens", "300000"),
        *("--dtype", "auto", "--quantization", "fp8", "--tp-size", "2", "--chunked-prefill-size", "4096"),
    )
    assert launch.key_variable == "ENGINE_KEY"
    assert not ENGINE.sockets(PLACEMENT)


def test_the_key_is_in_no_command_line():
    """What starts it takes the key from the environment, and out of it."""
    assert "os.environ.pop('ENGINE_KEY')" in START
    compile(START, "start", "exec")


def test_embedding_has_its_flag():
    assert "--is-embedding" in ENGINE.launch(replace(PLACEMENT, task="embed"), "http://127.0.0.1:1").argv


def test_ranks_are_summed_and_usage_is_that_of_the_fullest():
    assert ENGINE.read(PAGE, "chat") == Reading(8, 2, 100, 40, 0.9, 2000)
    assert ENGINE.read("", "chat") == Reading()
