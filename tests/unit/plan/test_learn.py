"""Learning from the log of a start: lines of every version, and constants that then repeat what was measured.

The lines have the form that facts/planning.md read in 0.11 and 0.33, with numbers of measured starts (id 4) and of a made-up one
(0.33): no whole log of a start on a GPU was at hand.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_models import GIB, LLAMA_8B, QWEN3_32B

from headrace.facts.constants import measured
from headrace.plan.vllm.constants import parse
from headrace.plan.vllm.learn import Learned, correct, learn
from headrace.plan.vllm.memory import vllm_memory

CONSTANTS = parse(measured("vllm"))
H100 = round(79.18 * GIB)

V0_11 = """\
INFO 10-08 03:04:05 [api_server.py:1839] vLLM API server version 0.11.0
INFO 10-08 03:04:15 [core.py:77] Initializing a V1 LLM engine (v0.11.0) with \
config: model='m', max_seq_len=16000, tensor_parallel_size=1, pipeline_parallel_size=1
(EngineCore_DP0 pid=9) INFO 10-08 03:05:01 [gpu_model_runner.py:2653] Model loading took 14.9889 GiB and 6.412 seconds
(EngineCore_DP0 pid=9) INFO 10-08 03:05:30 [gpu_worker.py:298] Available KV cache memory: 51.38 GiB
(EngineCore_DP0 pid=9) INFO 10-08 03:05:30 [kv_cache_utils.py:1087] GPU KV cache size: 420,896 tokens
(EngineCore_DP0 pid=9) INFO 10-08 03:05:30 [kv_cache_utils.py:1091] Maximum concurrency for 16,000 tokens per request: 26.31x
(EngineCore_DP0 pid=9) INFO 10-08 03:05:52 [gpu_model_runner.py:3480] Graph capturing finished in 20 secs, took 0.55 GiB
"""
V0_11_DEBUG = V0_11 + (
    "DEBUG Actual usage is 14.99 GiB for weight, 4.76 GiB for peak activation, 0.13 GiB for non-torch memory, "
    "and 0.55 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=54800000000`\n"
)
V0_33 = """\
(APIServer pid=1) INFO 11-02 10:00:00 [utils.py:300] vLLM version 0.33.0, \
non-default args: {'max_num_seqs': 256, 'gpu_memory_utilization': 0.92}
(Worker_TP0 pid=7) INFO 11-02 10:01:00 [gpu_model_runner.py:5] Model loading took 30.59 GiB memory and 12.1 seconds
(Worker_TP1 pid=8) INFO 11-02 10:01:00 [gpu_model_runner.py:5] Model loading took 30.55 GiB memory and 12.3 seconds
(EngineCore pid=6) INFO 11-02 10:01:30 [core.py:1] config: tensor_parallel_size=2, max_num_batched_tokens=2048
(Worker_TP0 pid=7) INFO 11-02 10:01:40 [gpu_worker.py:6] Available KV cache memory: 38.90 GiB
(Worker_TP1 pid=8) INFO 11-02 10:01:40 [gpu_worker.py:6] Available KV cache memory: 38.80 GiB
(EngineCore pid=6) INFO 11-02 10:01:41 [kv_cache_utils.py:7] GPU KV cache size: 317,840 tokens, \
Maximum concurrency for 40,960 tokens per request: 7.76x
(Worker_TP0 pid=7) INFO 11-02 10:02:00 [gpu_worker.py:8] Actual usage is \
31.20 GiB for consumed memory (weights + non-torch), 0.62 GiB for peak activation, and 1.30 GiB for CUDAGraph memory. Replace
"""
CPU = """\
INFO version 0.32.0
Explicitly set (1.0/16.21) GiB for KV cache on node 0.
CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x
"""
V0_CORE = (
    "the current vLLM instance can use total_gpu_memory (79.22GiB) x gpu_memory_utilization (0.90) = 71.30GiB\n"
    "model weights take 14.96GiB; non_torch_memory takes 1.79GiB; PyTorch activation peak memory takes 1.26GiB; "
    "the rest of the memory reserved for KV Cache is 53.29GiB.\n"
)


def test_the_lines_of_0_11() -> None:
    assert learn(V0_11) == Learned(
        version="0.11.0",
        weights_bytes=round(14.9889 * GIB),
        graph_bytes=round(0.55 * GIB),
        cache_bytes=round(51.38 * GIB),
        cache_tokens=420_896,
        context=16_000,
        max_concurrency=26.31,
    )


def test_the_summary_of_0_11_tells_the_rest_apart() -> None:
    learned = learn(V0_11_DEBUG)
    assert (learned.activation_bytes, learned.runtime_bytes) == (round(4.76 * GIB), round(0.13 * GIB))


def test_the_lines_of_0_33_with_two_ranks() -> None:
    """The most for what is taken, the least for the cache; the size and the concurrency share a line."""
    learned = learn(V0_33)
    assert (learned.version, learned.tensor_parallel, learned.max_num_seqs) == ("0.33.0", 2, 256)
    assert (learned.weights_bytes, learned.cache_bytes) == (round(30.59 * GIB), round(38.80 * GIB))
    assert (learned.cache_tokens, learned.context, learned.max_concurrency) == (317_840, 40_960, 7.76)
    assert learned.runtime_bytes == pytest.approx(0.61 * GIB, rel=1e-6)


def test_the_lines_of_a_cpu_and_of_v0() -> None:
    cpu, old = learn(CPU), learn(V0_CORE)
    assert (cpu.cache_bytes, cpu.cache_tokens, cpu.max_concurrency) == (GIB, 46_592, 22.75)
    assert (old.weights_bytes, old.cache_bytes, old.gpu_bytes) == tuple(round(x * GIB) for x in (14.96, 53.29, 79.22))


@pytest.mark.parametrize("log", [V0_11, V0_11_DEBUG], ids=["info", "debug"])
def test_what_was_learned_is_repeated(log: str) -> None:
    taught = correct(learn(log), LLAMA_8B, "H100", H100, CONSTANTS)
    assert taught
    with_it = CONSTANTS.with_learned(taught)
    memory = vllm_memory(LLAMA_8B, H100, 1, 1, 16_000, version="0.11.0", constants=with_it, card="NVIDIA H100 80GB HBM3")
    assert memory.cache_bytes == pytest.approx(51.38 * GIB, rel=0.002)
    assert "a start's log" in memory.term("activations").source
    assert with_it.at("0.11.0", "A100") == CONSTANTS.at("0.11.0", "A100")
    assert with_it.at("0.33.0", "H100") == CONSTANTS.at("0.33.0", "H100")


def test_graphs_that_are_taken_off_the_cache_are_learned() -> None:
    taught = correct(learn(V0_33), QWEN3_32B, "A100", round(79.15 * GIB), CONSTANTS)
    assert taught
    with_it = CONSTANTS.with_learned(taught)
    memory = vllm_memory(
        *(QWEN3_32B, round(79.15 * GIB), 2, 1, 40_960),
        version="0.33.0",
        constants=with_it,
        card="A100",
        utilization=0.92,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
    )
    assert memory.cache_bytes == pytest.approx(38.80 * GIB, rel=0.01)
    assert with_it.with_learned(taught) == with_it


def test_too_little_teaches_nothing() -> None:
    assert correct(learn("Available KV cache memory: 5 GiB"), LLAMA_8B, "H100", H100, CONSTANTS) is None
    assert correct(replace(learn(V0_11), version="nightly"), LLAMA_8B, "H100", H100, CONSTANTS) is None


def test_numbers_that_cannot_be_do_not_become_constants() -> None:
    absurd = replace(learn(V0_11_DEBUG), activation_bytes=10**15)
    taught = correct(absurd, LLAMA_8B, "H100", H100, CONSTANTS)
    assert taught
    assert taught.sampler_bytes == CONSTANTS.at("0.11.0").sampler_bytes


PIECES = [
    "Model loading took ",
    "9" * 400,
    " GiB",
    "-",
    "Available KV cache memory: ",
    "KV cache size: ,,, tokens",
    "\x00",
    "\n",
    "1e999 GiB",
]


@settings(max_examples=200, deadline=None)
@given(log=st.one_of(st.text(max_size=500), st.lists(st.sampled_from([*PIECES, *V0_33.splitlines()]), max_size=30).map("".join)))
def test_any_text_is_taken(log: str) -> None:
    correct(learn(log), LLAMA_8B, "H100", H100, CONSTANTS)
