"""The peak of vLLM's start beside weights and cache: the dummy batch, the dummy sampler, an encoder, and captured graphs."""

from collections.abc import Collection

from headrace.facts.model import ModelFacts
from headrace.plan.vllm.constants import Range, VersionConstants

_NUMBER_BYTES = 2
_UNKNOWN_VOCABULARY = 262_144
"""The largest common vocabulary (Gemma's), taken where the files do not say: never too little."""
_MOST_GRAPHS = 51
"""Batch sizes captured up to 512: 1, 2, 4, then every 8 below 256 and every 16 from there (config/compilation.py)."""


def activation_bytes(
    facts: ModelFacts, tp: int, max_num_seqs: int, batched_tokens: int, numbers: VersionConstants, encoders: Collection[str]
) -> Range:
    """The transient peak: the largest of sampler, MLP and encoder, beside one hidden state per batched token.

    Sampler: max_num_seqs x vocabulary x bytes of logits, sorted copies and indices; alike on every rank, as logits are gathered.
    With the hidden states added this gives the peaks of 0.6 to 0.11 on H100, L40S and RTX 4060 within 0.05 GiB (benchmarks/data).
    """
    entries, hidden = sampler_entries(facts, max_num_seqs), hidden_bytes(facts, batched_tokens)
    mlp, encoder = mlp_bytes(facts, tp, batched_tokens), encoder_bytes(facts, numbers, encoders)
    expected = max(entries * numbers.sampler_bytes.expected, mlp, encoder.expected)
    return Range(hidden + expected, 2 * hidden + max(entries * numbers.sampler_bytes.worst, 1.25 * mlp, encoder.worst))


def sampler_entries(facts: ModelFacts, max_num_seqs: int) -> int:
    """Logits of the dummy sampler run; an encoder has no sampler."""
    return 0 if facts.encoder else max_num_seqs * (facts.vocabulary or _UNKNOWN_VOCABULARY)


def hidden_bytes(facts: ModelFacts, batched_tokens: int) -> int:
    """One hidden state per token of the largest batch."""
    return _NUMBER_BYTES * batched_tokens * facts.hidden


def mlp_bytes(facts: ModelFacts, tp: int, batched_tokens: int) -> float:
    """Gate and up projections and their product, the residual beside; with experts once per expert used, and what they return."""
    wide, residual = 3 * _NUMBER_BYTES * _intermediate(facts) / tp, 2 * _NUMBER_BYTES * facts.hidden
    if facts.experts:
        wide = facts.experts.per_token * (wide + _NUMBER_BYTES * facts.hidden)
    return batched_tokens * (wide + residual)


def encoder_bytes(facts: ModelFacts, numbers: VersionConstants, encoders: Collection[str]) -> Range:
    """What profiling an image encoder takes, 0 for models that have none of the kind."""
    return numbers.encoder_bytes if facts.architecture in encoders else Range(0, 0)


def received_bytes(facts: ModelFacts, batched_tokens: int) -> Range:
    """A stage's buffers for what the one before sends: two per token and hidden unit (make_empty_intermediate_tensors)."""
    hidden = hidden_bytes(facts, batched_tokens)
    return Range(2 * hidden, 2 * hidden)


def graph_bytes(facts: ModelFacts, pp: int, max_num_seqs: int, numbers: VersionConstants) -> Range:
    """What vLLM estimates for CUDA graphs: by layer and by batch sizes to capture.

    Logged 1.55 GiB for 64 layers (measurement 65); captured 0.016 to 0.037 GiB per layer (1, 2, 56, 75, 76).
    """
    share = -(-facts.layers // pp) * graphs(max_num_seqs) / _MOST_GRAPHS
    return Range(share * numbers.graph_bytes.expected, share * numbers.graph_bytes.worst)


def graphs(max_num_seqs: int) -> int:
    """Batch sizes captured by default: up to twice max_num_seqs, at most 512."""
    largest = min(2 * max_num_seqs, 512)
    return sum(size <= largest for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)))


def _intermediate(facts: ModelFacts) -> float:
    """Of one expert where there are experts: their parameters are three matrices of hidden x intermediate per layer."""
    if facts.experts and facts.experts.count:
        return facts.experts.parameters / (3 * facts.experts.count * facts.layers * facts.hidden)
    return facts.intermediate or 4 * facts.hidden
