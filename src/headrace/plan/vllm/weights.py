"""The weights of one GPU under tensor, pipeline and expert parallelism."""

from math import ceil

from headrace.facts.model import ModelFacts
from headrace.plan.stages import Stage, part
from headrace.plan.vllm.constants import Range

_EMBEDDING_BYTES = 2
"""Embeddings and output matrix stay at 16 bits in every quantized checkpoint seen."""
_VOCABULARY_UNIT = 64
"""vocab_parallel_embedding.py pads the vocabulary to this."""
_MXFP4_BYTES = 17 / 32
_MXFP4_HIDDEN_UNIT = 256
_MARLIN_UNIT = 128
_WORST_KNOWN = 1.005
_WORST_DOUBTED = 1.05
"""Where the facts say that something was not understood, or that bytes were computed and not read."""
_WORST_STAGE, _WORST_MIXED_STAGE = 1.02, 1.06
"""Of a pipeline's stage: layers are not quite alike, and of a mixture some are dense (3 of DeepSeek's 61: others 5% larger)."""
_WORST = {"bitsandbytes": 1.03, "mxfp4": 1.01, "compressed-tensors": 1.02}
"""Loaded against checkpoint at worst: 16 bits and FP8 within 0.4% in all measurements, bitsandbytes (id 75) 2%."""


def refuse_parallel(facts: ModelFacts, tp: int, pp: int) -> str | None:
    """Why vLLM would not split the model over `tp` x `pp` GPUs, None when it would; verify_with_parallel_config."""
    if facts.heads % tp:
        return f"tensor parallel {tp} does not divide {facts.heads} heads"
    latent = any(group.kind == "latent" for group in facts.cache)
    if not latent and facts.kv_heads and facts.kv_heads % tp and tp % facts.kv_heads:
        return f"tensor parallel {tp} is neither a part nor a multiple of {facts.kv_heads} KV heads"
    if pp > facts.layers:
        return f"pipeline parallel {pp} is more than {facts.layers} layers"
    return None


def weights_bytes(facts: ModelFacts, tp: int, stage: Stage | None = None, *, expert_parallel: bool = False) -> Range:
    """Bytes on one of the `tp` GPUs of a stage; of the whole model when it has none.

    The checkpoint's bytes, evenly split, and what does not split: KV projections of replicated heads, a latent's down projection
    and the router of experts (ReplicatedLinear), a padded vocabulary, experts that do not divide, MXFP4 padded for its kernels.
    """
    stage = stage or Stage(1, 1, facts.layers, facts.layers)
    here, rate = part(facts, stage), _byte_rate(facts)
    copies = stage.layers * (_copied_heads(facts, tp) + _copied_latent(facts, tp) + _copied_router(facts, tp)) * rate
    uneven = _uneven_experts(here, tp) * rate if expert_parallel else 0
    added = copies + uneven + _padding(facts, tp) * stage.ends
    apart, tied = _held(facts, stage, ends=2) / tp, _held(facts, stage, ends=1) / tp
    kernels = [_mxfp4(here, tp, marlin=marlin) for marlin in (False, True)]
    return Range(apart + added + kernels[0], _worst(facts, stage) * (max(apart, tied) + added + kernels[1]))


def _held(facts: ModelFacts, stage: Stage, ends: int) -> float:
    """Bytes of a stage: its share of the layers, and what it has of the embedding and the output head.

    The facts do not say whether the two are one matrix in the checkpoint (`ends` 1); first and last stage then hold a copy each.
    """
    if stage.count == 1:
        return facts.weight_bytes
    end = min(_embedding(facts, facts.vocabulary or 0), facts.weight_bytes // 2)
    return (facts.weight_bytes - ends * end) * stage.share + stage.ends * end


def _worst(facts: ModelFacts, stage: Stage) -> float:
    known = _WORST.get(facts.quantization.lower(), _WORST_KNOWN)
    if stage.count > 1:
        known = max(known, _WORST_MIXED_STAGE if facts.experts else _WORST_STAGE)
    return max(known, _WORST_DOUBTED) if facts.doubts else known


def _embedding(facts: ModelFacts, vocabulary: int) -> int:
    return min(vocabulary * facts.hidden * _EMBEDDING_BYTES, facts.weight_bytes)


def _byte_rate(facts: ModelFacts) -> float:
    """Bytes per parameter outside embeddings (both matrices taken to be there: at most 16 bits come out)."""
    outside = facts.parameters - 2 * (facts.vocabulary or 0) * facts.hidden
    left = facts.weight_bytes - 2 * _embedding(facts, facts.vocabulary or 0)
    return min(left / outside, 2.0) if outside > 0 and left > 0 else 2.0


def _copied_heads(facts: ModelFacts, tp: int) -> float:
    """Parameters of a layer's key and value projections beyond an even share."""
    if any(group.kind == "latent" for group in facts.cache):
        return 0
    return facts.hidden * 2 * facts.head_dim * (ceil(facts.kv_heads / tp) - facts.kv_heads / tp)


def _copied_latent(facts: ModelFacts, tp: int) -> float:
    ranks = sum(group.numbers * group.layers for group in facts.cache if group.kind == "latent") / facts.layers
    return facts.hidden * ranks * (1 - 1 / tp)


def _copied_router(facts: ModelFacts, tp: int) -> float:
    return facts.hidden * facts.experts.count * (1 - 1 / tp) if facts.experts else 0


def _uneven_experts(facts: ModelFacts, tp: int) -> float:
    if not facts.experts or not facts.experts.count:
        return 0
    return facts.experts.parameters * (ceil(facts.experts.count / tp) / facts.experts.count - 1 / tp)


def _padding(facts: ModelFacts, tp: int) -> float:
    """Bytes that padding the vocabulary adds, at each end of the model."""
    vocabulary = facts.vocabulary or 0
    return (-vocabulary % _VOCABULARY_UNIT) * facts.hidden * _EMBEDDING_BYTES / tp


def _mxfp4(facts: ModelFacts, tp: int, *, marlin: bool) -> float:
    """Bytes that MXFP4 kernels add: they pad hidden sizes to 256 (Hopper), Marlin intermediate sizes to 128 as well.

    gpt-oss-20b loads as 13.47, 120b as 64.4 and with Marlin 65.97 GiB (measurements 1, 2 and 24), from 12.8 and 60.8.
    """
    if facts.quantization.lower() != "mxfp4" or not facts.experts:
        return 0
    grown = _ratio(facts.hidden, _MXFP4_HIDDEN_UNIT)
    if marlin and facts.intermediate:
        grown *= _ratio(ceil(facts.intermediate / tp), _MARLIN_UNIT)
    return facts.experts.parameters * _MXFP4_BYTES * (grown - 1) / tp


def _ratio(size: int, unit: int) -> float:
    return unit * ceil(size / unit) / size
