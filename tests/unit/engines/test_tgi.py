"""TGI as an engine, as its source says it is: it was not run by us."""

from dataclasses import replace

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.tgi import ENGINE, container
from tests.known_models import LLAMA_8B, SMOLLM2

PLACEMENT = Placement("chat", "tgi", "generate", "/data/chat", 4096, 32, 8, 0)
ARGUMENTS = (
    *("--model-id", "/data/chat", "--max-total-tokens", "4096", "--max-input-tokens", "4095"),
    *("--max-concurrent-requests", "40", "--max-batch-size", "32"),
)

PAGE = """
# TYPE tgi_request_count counter
tgi_request_count 12
# TYPE tgi_queue_size gauge
tgi_queue_size 5
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 4
# TYPE tgi_request_input_length histogram
tgi_request_input_length_bucket{le="+Inf"} 12
tgi_request_input_length_sum 480
tgi_request_input_length_count 12
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_sum 96
"""


def test_it_is_found_by_looking_and_says_what_comes_after_it():
    assert engines()["tgi"] is ENGINE
    assert "maintenance mode" in ENGINE.note
    assert "engine: vllm" in ENGINE.note


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (LLAMA_8B, "generate", None),
        (LLAMA_8B, "embed", "generates text only"),
        (replace(LLAMA_8B, encoder=True), "generate", "generates text only"),
        (SMOLLM2, "generate", "this model is GGUF"),
        (None, "infer", "this is none"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


def test_the_launcher_gets_what_a_container_gets_and_where_to_listen():
    launch = ENGINE.launch(PLACEMENT, "http://127.0.0.1:3001")
    assert launch.argv[0] == "text-generation-launcher"
    assert launch.argv[1:] == (*container(PLACEMENT), "--hostname", "127.0.0.1", "--port", "3001")
    assert container(PLACEMENT) == (*ARGUMENTS, "--num-shard", "1", "--graceful-termination-timeout", "600")


def test_the_key_is_in_no_command_line():
    """The launcher would put it into the router's."""
    assert ENGINE.launch(PLACEMENT, "http://127.0.0.1:3001").key_variable is None


@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        ({"quantization": "awq", "dtype": "float16"}, ("--quantize", "awq"), "--dtype"),  # both are an error
        ({"dtype": "bfloat16"}, ("--dtype", "bfloat16"), "--quantize"),
        ({"tensor_parallel": 4}, ("--num-shard", "4"), "--dtype"),
        ({"prefill_tokens": 8192}, ("--max-batch-prefill-tokens", "8192"), "--quantize"),
        ({"device": "cpu"}, ("--cuda-graphs", "0"), "--dtype"),
        ({"args": ("--speculate", "2")}, ("--speculate", "2"), "--cuda-graphs"),
    ],
)
def test_options_become_flags(options, said, unsaid):
    argv = container(replace(PLACEMENT, options=options))
    assert argv[argv.index(said[0]) :][:2] == said
    assert unsaid not in argv


def test_adapters_are_named():
    argv = container(replace(PLACEMENT, adapters={"poet": "/a/poet", "clerk": "/a/clerk"}))
    assert argv[argv.index("--lora-adapters") + 1] == "poet=/a/poet,clerk=/a/clerk"


@pytest.mark.parametrize(
    ("page", "reading"),
    [
        (PAGE, Reading(running=4, waiting=5, tokens_in_total=480, tokens_out_total=96)),
        ("", Reading(running=0, waiting=0)),  # before the first request no series is there
        (PAGE.replace("tgi_queue_size 5", ""), Reading(running=4, tokens_in_total=480, tokens_out_total=96)),  # later: unknown
    ],
)
def test_missing_is_zero_only_before_the_first_request(page, reading):
    assert ENGINE.read(page, "any") == reading
