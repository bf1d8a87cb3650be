"""What is true of a model, read and never guessed: the facts of weights, of a GGUF header, of a config.json with its tensors."""

from headrace.errors import ModelError
from headrace.facts.base import ENCODERS, CacheGroup, Experts, ModelFacts, growing_bytes
from headrace.facts.config import from_config
from headrace.facts.gguf import from_gguf
from headrace.weights.model import Weights

__all__ = ["ENCODERS", "CacheGroup", "Experts", "ModelFacts", "from_config", "from_gguf", "growing_bytes", "of"]


def of(weights: Weights) -> ModelFacts:
    """The facts of weights that are on this machine. Raises ModelError."""
    if weights.gguf:
        return from_gguf(weights.gguf, weights.bytes)
    if not weights.config:
        raise ModelError(f"{weights.path} has safetensors weights and no config.json that describes them.")
    return from_config(weights.config, weights.tensors, chat_template=weights.chat_template)
