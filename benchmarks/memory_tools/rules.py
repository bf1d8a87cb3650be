"""How others estimate memory: KAITO's and GPUStack's rules, as their sources have them (facts/planning.md, section 1)."""

GIB = 2**30


def kaito_nodes(weights_gib: float, bytes_per_token: int, gpu_gib: float, gpus_per_node: int, context: int = 2048) -> int | None:
    """Nodes that KAITO asks for, None where it refuses; nodesestimator/estimator.go @056b8280.

    `gpu_gib` is its SKU table's nominal memory, `weights_gib` the bytes of all safetensors of the repository.
    """
    available = gpu_gib * 0.84
    fixed = 2.3 + context * bytes_per_token / GIB / gpus_per_node
    if available <= fixed:
        return None
    gpus = int(weights_gib * 1.02 / ((available - fixed) / 1.05)) + 1
    return -(-gpus // gpus_per_node)


def kaito_kv(budget_gib: float, weights_gib: float, tp: int) -> float:
    """The cache that KAITO's terms leave of a GPU's budget, in GiB: its weights and its fixed part, at the row's utilization."""
    return budget_gib - weights_gib * 1.02 / tp - 2.3


def gpustack_claim(weights_gib: float) -> float:
    """GiB that GPUStack sets aside for an LLM over all its GPUs; gpustack/policies/utils.py @47277d79. It has no context term."""
    return weights_gib * 1.2 + 2


def gpustack_kv(budget_gib: float, weights_gib: float, tp: int) -> float:
    """The cache that GPUStack's claim leaves of a GPU's budget, in GiB."""
    return budget_gib - gpustack_claim(weights_gib) / tp


def gpustack_fits(weights_gib: float, gpu_gib: float, tp: int) -> bool:
    return gpustack_claim(weights_gib) <= tp * gpu_gib * 0.9
