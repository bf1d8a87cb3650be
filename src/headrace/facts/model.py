"""config.json or a GGUF header, with the tensor index → ModelFacts: what is true of a model, read and never guessed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of a model. None means the files do not say.

    `cache_bytes_per_token` is the KV cache of one token over all layers at 16 bits per number:
    2 (key and value) x layers x kv_heads x head_dim x 2 bytes; 0 for encoders, which keep none.
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
