"""What a loaded model says of itself, in the words of Triton's configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .arrays import Predict


class Unusable(Exception):
    """The model cannot be served; the message is the cause in one line."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: `dims` are those of one request without a batch dimension, -1 is any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model in memory: `predict` takes and gives arrays by name, with a batch dimension in front if `batched`."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool
    predict: Predict
    notes: tuple[str, ...] = field(default=())
    """What is left out, for the log."""


@dataclass(frozen=True)
class Asked:
    """What is to be loaded: a path, threads to compute with, and what the kind needs besides."""

    path: str
    threads: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
