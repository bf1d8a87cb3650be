"""How many GPUs an engine takes, and what of the model each of them holds, by its flags."""

from typing import Any

import pytest

from headrace.lint.base import Finding
from tests.unit.lint.test_in_the_wild import deployment, found

MIXTURE, BF16_MIXTURE, DENSE = "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-32B"
H200 = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}
L4 = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}


def vllm(*args: str, gpus: int = 8, pod: dict[str, Any] = H200, **container: Any) -> dict[str, Any]:
    return deployment({"args": list(args), "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}, **container}, pod=pod)


def sglang(*args: str, gpus: int = 8) -> dict[str, Any]:
    command = ["python3", "-m", "sglang.launch_server"]
    return vllm("--model-path", *args, gpus=gpus, image="lmsysorg/sglang:v0.5.0", command=command)


def said(code: str, one: dict[str, Any]) -> list[Finding]:
    return [each for each in found(one) if each.code == code]


FIT = [
    # the usual way to serve it: a rank on each GPU, a part of the experts on each rank
    (MIXTURE, "--data-parallel-size 8 --enable-expert-parallel", None),
    (BF16_MIXTURE, "-dp 8 -ep", None),
    # without the flag each rank has a slice of every expert: the same bytes
    (MIXTURE, "-dp 8", None),
    # ranks on other nodes hold their part as well
    (MIXTURE, "-dp 16 --data-parallel-size-local 8 --data-parallel-address 10.0.0.1 -ep", None),
    # two ranks: half of the experts is too much for one GPU
    (MIXTURE, "-dp 2 -ep", "321 GiB of weights on each of 2 ranks"),
    (MIXTURE, "-dp 2 -ep -tp 4", None),
    # what is no expert is on every rank
    (DENSE, "-dp 8", None),
    # numbers that are not known, or weights that are split in a way that is not counted
    (MIXTURE, "-dp $(RANKS) -ep", None),
    (MIXTURE, "-tp $(GPUS)", None),
    (MIXTURE, "-pp $(NODES)", None),
    (MIXTURE, "-tp 2 -pcp 4 -ep", None),
    (MIXTURE, "-tp 2", "627 GiB of weights and"),
    (MIXTURE, "-tp 4 -pp 2", None),
]


@pytest.mark.parametrize(("model", "args", "says"), FIT)
def test_experts_are_spread_over_the_ranks_and_the_rest_is_on_each(model: str, args: str, says: str | None) -> None:
    sentences = [each.sentence for each in said("HR407", vllm(model, *args.split()))]
    assert len(sentences) == (says is not None)
    assert all(says in sentence for sentence in sentences if says)


def test_a_dense_model_is_whole_on_every_rank() -> None:
    """Two ranks have the memory of two GPUs, and each needs room for all of it."""
    two, split = (said("HR407", vllm("Qwen/Qwen3-14B", *args.split(), pod=L4)) for args in ("-dp 2", "-tp 2"))
    assert [each.what for each in two if "on each of 2 ranks" in each.what]
    assert split == []


def test_an_unknown_part_of_experts_is_not_judged() -> None:
    """Expert parallelism of a model that has none in the catalogue: the catalogue is wrong, or the flag."""
    assert said("HR407", vllm("Qwen/Qwen3-14B", "-dp", "2", "-ep", pod=L4)) == []


COUNTS = [
    # (one, GPUs it wants; None where its 8 are right or nobody can know)
    (vllm(MIXTURE, "-dp", "8", "-ep"), None),
    (vllm(MIXTURE, "-tp", "2", "-dp", "4"), None),
    (vllm(MIXTURE, "-tp", "2", "-dp", "8"), "wants 16 GPUs"),
    (vllm(DENSE, "-tp", "1"), "--tensor-parallel-size 8"),
    (vllm(DENSE, "-tp", "1", "-dp", "2"), "--tensor-parallel-size 4"),
    # of ranks on several nodes those of this pod count
    (vllm(MIXTURE, "-dp", "16", "-dpl", "8"), None),
    (vllm(MIXTURE, "-dp", "16", "-dpl", "4"), "uses 4: 4 are idle"),
    (vllm(MIXTURE, "-tp", "8", "-dp", "2", "--data-parallel-rank", "1"), None),
    # a node that has the API alone
    (vllm(MIXTURE, "-dp", "16", "-dpl", "0"), None),
    (vllm(MIXTURE, "-tp", "4", "--prefill-context-parallel-size", "2"), None),
    # with Ray the others may be anywhere
    (vllm(MIXTURE, "-tp", "16", "--distributed-executor-backend=ray"), None),
    (vllm(MIXTURE, "-dp", "16", "-dpb", "ray"), None),
    (vllm(MIXTURE, "-dp", "16", "-dpa", "10.0.0.1"), None),
    (vllm(MIXTURE, "-dp", "$(RANKS)"), None),
    # SGLang: ranks of attention share the GPUs of tensor parallelism, copies of the model have their own
    (sglang(MIXTURE, "--tp", "8", "--dp", "8", "--enable-dp-attention"), None),
    (sglang(MIXTURE, "--tp", "8", "--dp", "8"), "wants 64 GPUs"),
]


@pytest.mark.parametrize(("one", "says"), COUNTS, ids=lambda value: " ".join(engine_args(value)) if value else "")
def test_a_pod_has_the_gpus_of_the_ranks_that_start_in_it(one: dict[str, Any], says: str | None) -> None:
    sentences = [each.sentence for each in said("HR404", one)]
    assert len(sentences) == (says is not None)
    assert all(says in sentence for sentence in sentences if says)


def engine_args(one: Any) -> list[str]:
    return one["spec"]["template"]["spec"]["containers"][0]["args"] if isinstance(one, dict) else [one]


def test_heads_are_split_over_the_gpus_of_a_rank_of_attention() -> None:
    """128 heads on 72 GPUs: each of 72 ranks has all of them."""
    args = (MIXTURE, "--tp", "72", "--dp", "72", "--nnodes", "9")
    assert said("HR403", sglang(*args, "--enable-dp-attention")) == []
    assert len(said("HR403", sglang(*args))) == 1


@pytest.mark.parametrize(
    ("args", "seconds", "enough"),
    [
        ("-dp 8 -ep", 120, True),  # 92 GiB for each GPU
        ("-dp 8 -ep", 60, False),
        ("-tp 8", 60, False),
        ("-tp 4 -pp 2", 120, True),
        ("-tp $(GPUS)", 60, True),  # nobody knows
    ],
)
def test_a_start_reads_what_its_gpus_hold(args: str, seconds: int, enough: bool) -> None:
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 10, "failureThreshold": seconds // 10}
    assert (said("HR201", vllm(MIXTURE, *args.split(), startupProbe=probe)) == []) is enough
