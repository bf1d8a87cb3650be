"""Everything in plan/constants/vllm.yaml that was fitted to measurements, fitted again from other models' rows."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from memory_tools.rows import GIB, Start

from headrace.plan.vllm.activation import activation_bytes, encoder_bytes, graph_bytes, hidden_bytes, mlp_bytes, sampler_entries
from headrace.plan.vllm.constants import Constants, Range, VersionConstants
from headrace.plan.vllm.memory import batch

READ_SAMPLER = 14.0
"""Without measurements: 2 bytes of logits, and 4 each of their copy, mask and probabilities (topk_topp_sampler.py)."""
SORTED_BEFORE = (0, 17)
SPLIT_RUNTIME = (0, 8)


def fitted_without(model_key: str, rows: Sequence[Start], shipped: Constants) -> Constants:
    """`shipped` with sampler, runtime, graphs and encoder as the rows of all other models have them, by median."""
    others = tuple(row for row in rows if row.model_key != model_key and row.grade in "AB" and row.facts)
    versions = tuple(_fit(one, others, shipped) for one in shipped.versions)
    return replace(shipped, versions=versions)


def _fit(one: VersionConstants, rows: tuple[Start, ...], shipped: Constants) -> VersionConstants:
    sorts = one.since < SORTED_BEFORE
    sampler = _median(
        [each for row in rows if (each := _sampler(row, shipped)) and (each[0] < SORTED_BEFORE) == sorts], READ_SAMPLER
    )
    fitted = replace(
        one,
        sampler_bytes=Range(sampler, max(sampler, one.sampler_bytes.worst)),
        graph_bytes=_range(one.graph_bytes, [graph * GIB for row in rows if (graph := _graph(row))]),
        encoder_bytes=_range(one.encoder_bytes, [_encoder(row) for row in rows if _profiles(row, shipped)]),
    )
    if one.since < SPLIT_RUNTIME:
        return fitted
    same = [row for row in rows if _band(shipped.at(row.version).since) == _band(one.since)]
    single = [found * GIB for row in same if row.tp == 1 and (found := _runtime(row, shipped)) is not None]
    parallel = [found * GIB for row in same if row.tp > 1 and (found := _runtime(row, shipped)) is not None]
    if _band(one.since) == 1:
        # The highest: whether GPUs have a direct link (0.55 GiB) or not (0.21) is not asked, and less would be promised wrongly.
        parallel = [max(parallel)] if parallel else []
    return replace(
        fitted,
        runtime_bytes=_range(one.runtime_bytes, single),
        runtime_parallel_bytes=_range(one.runtime_parallel_bytes, parallel),
    )


def _band(since: tuple[int, int]) -> int:
    """Versions whose runtime is one number: before 0.8, before 0.15, before 0.17, and the rest."""
    return sum(since >= first for first in (SPLIT_RUNTIME, (0, 15), SORTED_BEFORE))


def _runtime(row: Start, shipped: Constants) -> float | None:
    """GiB as logged, or what weights, cache and the other terms leave in versions that do not log it apart."""
    numbers = shipped.at(row.version, row.card)
    if row.id == "68":
        return 0.15  # logs weights and runtime as 7.64 GiB, of which the checkpoint is 7.49
    if row.runtime is not None or _band(numbers.since) == 1:
        return row.runtime
    if row.facts is None or None in (row.weights, row.cache, row.total_gib, row.utilization) or not row.known:
        return None
    asked = batch(numbers, int(row.total_gib * GIB), row.card, row.context or 0, row.utilization, row.max_num_seqs)
    tokens = row.max_num_batched_tokens or asked.max_num_batched_tokens
    others = activation_bytes(row.facts, row.tp, asked.max_num_seqs, tokens, numbers, shipped.encoders).expected
    if numbers.graphs_counted:
        others += graph_bytes(row.facts, 1, asked.max_num_seqs, numbers).expected
    return row.total_gib * row.utilization - row.weights - row.cache - others / GIB


def _sampler(row: Start, shipped: Constants) -> tuple[tuple[int, int], float] | None:
    """(version, bytes per logit) of a start whose peak the sampler made and whose batch is known or vLLM's default."""
    if row.facts is None or row.activation is None or row.total_gib is None:
        return None
    numbers = shipped.at(row.version, row.card)
    asked = batch(numbers, int(row.total_gib * GIB), row.card, row.context or 0, row.utilization, row.max_num_seqs)
    # Id 65 logs its peak with 1.55 GiB of estimated graphs in it; id 8 has the peak of a sampler that does not sort, in 0.11.
    peak = row.activation * GIB - (1.55 * GIB if row.id == "65" else 0)
    left = peak - hidden_bytes(row.facts, asked.max_num_batched_tokens)
    if left < mlp_bytes(row.facts, row.tp, asked.max_num_batched_tokens):
        return None
    return ((0, 17) if row.id == "8" else numbers.since), left / sampler_entries(row.facts, asked.max_num_seqs)


def _median(found: Sequence[tuple[object, float]], otherwise: float) -> float:
    return median(each for _, each in found) if found else otherwise


def _range(shipped: Range, found: Sequence[float]) -> Range:
    expected = median(found) if found else shipped.expected
    return Range(expected, max(expected, shipped.worst))


def _graph(row: Start) -> float | None:
    """GiB per layer of captured or estimated graphs, where the log says a positive number."""
    graphs = 1.55 if row.id == "65" else row.graphs
    if row.facts is None or graphs is None or graphs <= 0 or row.id == "36":  # id 36 captured few sizes, which are not stated
        return None
    return graphs / row.facts.layers


def _profiles(row: Start, shipped: Constants) -> bool:
    if row.facts is None or row.activation is None:
        return False
    return encoder_bytes(row.facts, shipped.at(row.version), shipped.encoders).expected > 0


def _encoder(row: Start) -> float:
    return (row.activation or 0) * GIB
