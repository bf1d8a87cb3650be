"""What is served and is no language model: code, a graph, a tree, a repository of them, or a command that serves by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.traffic import Task

Format = Literal["python", "onnx", "skops", "pickle", "torch", "repository", "command"]

FORMATS: Mapping[str, Format] = {
    ".py": "python",
    ".onnx": "onnx",
    ".skops": "skops",
    ".joblib": "pickle",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".pt": "torch",
    ".pt2": "torch",
}
"""By the ending of the file's name."""

ENGINES: Mapping[Format, str] = {"python": "custom", "command": "custom"}
"""Which engine serves a format when none is asked for; any other format is Triton's."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """`path` is the file or folder, `bytes` its size, `tasks` what it can do (the first is meant when nothing is said), `also`
    the names of the models in a repository.
    """

    path: str
    format: Format
    bytes: int
    tasks: tuple[Task, ...] = ("infer",)
    also: tuple[str, ...] = ()
