"""Weights: files that are here, verified, with what their headers say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.weights.formats import Format
from headrace.weights.headers import GgufHeader, Tensor
from headrace.weights.source import Source


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model. `name` is relative to the model's folder; `sha256` is None for a user's own file."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """A model that is on this machine.

    `path` is what an engine loads: the GGUF file (the first part of a split one), the folder with safetensors, or the file that
    is no language model (ONNX, skops).
    `revision` is the resolved version: a package version, a commit, the sha256 of an https file; None for the user's
    own. `gguf` is the header of a GGUF model, with the tensors of all its parts; `config` (config.json, completed by
    `read.settings`) and `tensors` describe a safetensors one.
    """

    source: Source
    path: str
    format: Format
    revision: str | None
    files: tuple[File, ...]
    gguf: GgufHeader | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()
    chat_template: bool = False
    """A chat template comes with safetensors weights; that of a GGUF model is in its header."""

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is: `what` in words, bytes done, bytes in all (None: unknown)."""

    what: str
    done_bytes: int
    total_bytes: int | None


Report = Callable[[Progress], None]
