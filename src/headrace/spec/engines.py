"""The settings of each engine; what is left out is planned. An escape hatch, not a way of life: intent belongs into `for`."""

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from headrace.spec.values import Seconds, Strict, form

EngineName = Literal["auto", "llamacpp", "openvino", "vllm", "sglang", "tgi", "triton", "custom"]
NAMES: tuple[EngineName, ...] = ("llamacpp", "openvino", "vllm", "sglang", "tgi", "triton", "custom")

_SECRET = re.compile(r"--?(?:api[-_]?key|hf[-_]?token|token|password)(?:[= ]|$)", re.IGNORECASE)


def _words(value: Any) -> Any:
    """A list of words, or one line of them."""
    return tuple(shlex.split(value)) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _arguments(value: Any) -> Any:
    words = _words(value)
    if isinstance(words, tuple) and any(isinstance(word, str) and _SECRET.match(word) for word in words):
        raise ValueError("holds a secret, which every process here could read; leave it out, Headrace makes keys of its own")
    return words


Arguments = Annotated[tuple[str, ...], BeforeValidator(_arguments)]
_ARGS = Field((), description="Further flags of the server, passed on as they are, after those that Headrace sets.")
_ENVIRONMENT = Field(
    None,
    description="Folder of the virtual environment that has the engine. Default: HEADRACE_<ENGINE>, else the one that "
    "`headrace engines install` made, else the environment of Headrace.",
)
Threads = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]


class LlamaCppOptions(Strict):
    """Settings of the llama.cpp engine."""

    threads: Threads = Field(
        "auto",
        description="CPU threads of one replica. auto: the machine's cores shared between the replicas, at least 1.",
    )
    wait: Literal["auto", "active", "brief", "passive"] = Field(
        "auto",
        description="What idle threads do: passive ones sleep, brief ones spin a little first (twice as fast on free cores), "
        "active ones spin on (and come to a stand on shared cores). auto: brief on free cores, else passive, and says why.",
    )
    batch: Annotated[int, Field(ge=32, le=65536)] = Field(
        512, description="Tokens computed at once (n_ubatch). The longest input of an embedding model must fit in it."
    )
    cache_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Number format of the KV cache. q8_0 halves its memory at a small loss of quality."
    )


class OpenVinoOptions(Strict):
    """Settings of OpenVINO GenAI."""

    threads: Threads = Field("auto", description="CPU threads of one replica. auto: the cores shared between the replicas.")
    batch: Annotated[int, Field(ge=32, le=65536)] = Field(
        256, description="Tokens computed in one step. More reads prompts faster and lets running answers wait longer."
    )


class VllmOptions(Strict):
    """Settings of vLLM."""

    args: Arguments = _ARGS
    batch: Annotated[int, Field(ge=64, le=1_048_576)] | None = Field(
        None,
        description="Most tokens computed in one step (--max-num-batched-tokens): more reads prompts faster and lets running "
        "answers wait longer. Default: vLLM's own, on GPUs the planner's.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Number format of the computation.")
    sleep: bool = Field(
        True,
        description="On a GPU of this machine, a model that may sleep does so in place: its process stays, its weights are in "
        "RAM or thrown away. false: it is stopped instead.",
    )
    environment: str | None = _ENVIRONMENT


class SglangOptions(Strict):
    """Settings of SGLang."""

    args: Arguments = _ARGS
    environment: str | None = _ENVIRONMENT


class TgiOptions(Strict):
    """Settings of TGI."""

    args: Arguments = _ARGS


class TritonOptions(Strict):
    """Settings of the Triton Inference Server."""

    batch: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="Most inputs that are computed together.")
    delay: Seconds = Field(0.002, description="How long the first input of a batch waits for others.")
    queue: Annotated[int, Field(ge=1, le=100_000)] = Field(
        64, description="Most requests that wait inside of Triton; the gateway's queue is in front of it."
    )
    instances: Annotated[int, Field(ge=1, le=256)] = Field(1, description="Copies of the model in the one process.")
    class_: str | None = Field(None, alias="class", description="The class of a .py file. Default: the only one that can serve.")
    trusted: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        (), description="Types in a .skops file to be trusted besides those of scikit-learn and numpy, as in my.package.Scaler."
    )
    pickle: bool = Field(
        False, description="Load a scikit-learn model from a pickle (.joblib, .pkl), which can run any code: only your own."
    )
    environment: str | None = _ENVIRONMENT


class CustomOptions(Strict):
    """Settings of code of your own: a Python class, or a command."""

    class_: str | None = Field(None, alias="class", description="The class of the file. Default: the only one that can serve.")
    batch: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="Most inputs that `predict` gets at once.")
    delay: Seconds = Field(0.005, description="How long the first input of a batch waits for others.")
    limit: Seconds = Field(
        60.0, description="Longest that one call of `predict` may take; a replica that hangs is started again."
    )
    command: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        (),
        description="A server to start instead of a class: {host} and {port} are replaced by where it shall listen, {socket} by "
        "the path of a Unix socket. `python` is the interpreter of Headrace.",
    )
    ready: str = Field("/health", pattern="^/", description="The path of the command's server that answers 200 when it is ready.")
    speaks: Literal["openai", "v2", "http"] = Field(
        "openai",
        description="What the command's server understands: OpenAI's API, KServe V2, or plain HTTP (see docs/custom.md).",
    )
    folder: str | None = Field(
        None, description="Where it runs. Default: for a class the folder of its file, for a command the folder of this one."
    )

    @model_validator(mode="after")
    def _one_way(self) -> "CustomOptions":
        if self.command and self.class_:
            raise ValueError("has both a class and a command; keep one of them")
        return self


class EngineOptions(Strict):
    """The full form of `engine`: one engine's name with its settings."""

    llamacpp: LlamaCppOptions | None = Field(None, description="The embedded llama.cpp, with settings.")
    openvino: OpenVinoOptions | None = Field(None, description="OpenVINO GenAI, with settings.")
    vllm: VllmOptions | None = Field(None, description="vLLM, with settings.")
    sglang: SglangOptions | None = Field(None, description="SGLang, with settings.")
    tgi: TgiOptions | None = Field(None, description="TGI, with settings.")
    triton: TritonOptions | None = Field(None, description="Triton, with settings.")
    custom: CustomOptions | None = Field(None, description="Code of your own, with settings.")

    @model_validator(mode="after")
    def _one(self) -> "EngineOptions":
        if not self.given:
            raise ValueError("names no engine; write {llamacpp: {threads: 2}}")
        if len(self.given) > 1:
            raise ValueError(f"names {' and '.join(self.given)}, and a model runs on one engine; keep one of them")
        return self

    @property
    def given(self) -> tuple[str, ...]:
        """The engines that are written there: one."""
        return tuple(name for name in NAMES if getattr(self, name) is not None)


Engine = Annotated[Annotated[EngineName, Tag("<name>")] | Annotated[EngineOptions, Tag("<options>")], Discriminator(form)]

OPTIONS: Mapping[str, type[Strict]] = {
    "llamacpp": LlamaCppOptions,
    "openvino": OpenVinoOptions,
    "vllm": VllmOptions,
    "sglang": SglangOptions,
    "tgi": TgiOptions,
    "triton": TritonOptions,
    "custom": CustomOptions,
}
"""The settings by engine."""
