"""What is true of a model, as values: architecture, parameters, cache layer by layer, and what was not understood."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from headrace.errors import ModelError

CACHE_NUMBER_BYTES = 2
"""Caches are counted at 16 bits per number; an engine that keeps them in 8 halves it."""

MOST_LAYERS = 10_000

ENCODERS = (
    *("t5encoder", "gemma-embedding"),
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert"),
    *("roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "nomic_bert", "electra", "camembert"),
)
"""Architectures, by the names of GGUF and of config.json, that embed and cannot generate."""


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose cache is alike.

    `full` keeps every token, `window` and `chunk` the last `window` tokens, `latent` one compressed vector per token (MLA),
    `state` a fixed amount per request (Mamba, linear attention). `numbers` are the numbers kept per token, layer and KV head,
    key and value together (latent: kv_lora_rank + rope dimension, with one head; state: per request and layer, with one head,
    where a number that is kept in 32 bits counts twice).
    """

    kind: Literal["full", "window", "chunk", "latent", "state"]
    layers: int
    kv_heads: int
    numbers: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: of `count` in a layer a token uses `per_token`; `parameters` are those of all routed experts."""

    count: int
    per_token: int
    parameters: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of a model. None means the files do not say.

    `cache_bytes_per_token` is the cache of one token over all layers whose cache grows with every token (`full` and `latent`),
    at 16 bits per number: 2 (key and value) x layers x kv_heads x head_dim x 2 bytes for plain attention; 0 for encoders, which
    keep none. `cache` says it layer by layer, windows and states too; `parameters_active` are those that one token uses;
    `doubts` name what was not understood. A model without attention (Mamba) has 0 heads.
    """

    architecture: str
    format: Literal["gguf", "safetensors"]
    parameters: int
    weight_bytes: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    cache_bytes_per_token: int
    context: int | None
    quantization: str
    vocabulary: int | None
    chat_template: bool
    encoder: bool
    """An encoder (BERT and its kin): it embeds and cannot generate."""
    cache: tuple[CacheGroup, ...] = ()
    intermediate: int | None = None
    experts: Experts | None = None
    parameters_active: int | None = None
    doubts: tuple[str, ...] = ()
    template: str = field(default="", repr=False)
    """The chat template itself (Jinja), where the weights carry one and an engine may need it told."""


def growing_bytes(groups: Iterable[CacheGroup]) -> int:
    """Bytes of cache that one more token costs at 16 bits per number: those of `full` and `latent` layers."""
    growing = (group for group in groups if group.kind in ("full", "latent"))
    return CACHE_NUMBER_BYTES * sum(group.layers * group.kv_heads * group.numbers for group in growing)


def active(parameters: int, experts: Experts | None) -> int:
    """The parameters that one token uses: all but the routed experts it is not sent to."""
    if experts is None:
        return parameters
    used = -(-experts.parameters * experts.per_token // experts.count)
    return parameters - experts.parameters + used


def head_size(hidden: int, heads: int) -> int:
    """The size of a head where it is not given. Raises ModelError."""
    if hidden % heads:
        raise ModelError(f"The size of a head is not given, and hidden size {hidden} is not a multiple of {heads} heads.")
    return hidden // heads
