"""What the user asked, validated: frozen values, unknown keys refused. Text such as `16GB` becomes a number here, once.

Keys that a later version implements are listed in `NOT_YET` and refused by name, never ignored. Every description says
what the value means, its unit and its default: the JSON Schema and docs/reference/spec.md are made from them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from headrace.spec.addresses import host_port, server_url
from headrace.traffic import Task
from headrace.units import DURATION_PATTERN, SIZE_PATTERN, parse_bytes, parse_duration, parse_range

EngineName = Literal["auto", "llamacpp"]
NOT_YET: Mapping[str, tuple[str, ...]] = {
    "models.*": ("quantization", "tensor_parallel", "for", "scale", "share", "adapters"),
    "gateway": ("keys",),
    "weights": ("keep",),
    "": ("machine", "kubernetes"),
}
"""Keys of later versions, by the path of the mapping they belong to (`*` is any model's name, "" the top)."""

NOT_YET_ENGINES = ("vllm", "sglang", "tgi", "triton", "openvino", "custom")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"
_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")


def _read(parse: Any) -> BeforeValidator:
    """A validator that lets numbers through and reads text with `parse`."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _as_written(number: str, pattern: str) -> dict[str, Any]:
    return {"type": [number, "string"], "pattern": f"^{pattern}$"}


Bytes = Annotated[int, _read(parse_bytes), Field(gt=0, le=2**50, json_schema_extra=_as_written("integer", SIZE_PATTERN))]
# A week at most: event loops refuse timers of many years, and nobody waits that long for a request.
Seconds = Annotated[
    float,
    _read(parse_duration),
    Field(gt=0, le=604_800, json_schema_extra=_as_written("number", DURATION_PATTERN)),
]
ModelName = Annotated[str, Field(pattern=NAME_PATTERN)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LlamaCppOptions(_Strict):
    """Settings of the llama.cpp engine; what is left out is planned."""

    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto",
        description="CPU threads of one replica. auto: the machine's cores shared between the replicas, at least 1.",
    )
    wait: Literal["auto", "active", "passive"] = Field(
        "auto",
        description="What idle threads do: active ones spin (fast when the cores are free, far slower when they are "
        "shared), passive ones sleep. auto decides from the machine's load and says why.",
    )
    batch: Annotated[int, Field(ge=32, le=65536)] = Field(
        512, description="Tokens computed at once (n_ubatch). The longest input of an embedding model must fit in it."
    )
    cache_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Number format of the KV cache. q8_0 halves its memory at a small loss of quality."
    )


class EngineOptions(_Strict):
    """The full form of `engine`: one engine's name with its settings."""

    llamacpp: LlamaCppOptions = Field(description="The embedded llama.cpp, with settings.")


def _engine_form(value: Any) -> str:
    return "<name>" if isinstance(value, str) else "<options>"


Engine = Annotated[Annotated[EngineName, Tag("<name>")] | Annotated[EngineOptions, Tag("<options>")], Discriminator(_engine_form)]


class ModelSpec(_Strict):
    """One model: where its weights are, or where it already runs; everything else is planned when left out."""

    source: str | None = Field(
        None,
        description="Where the weights are: hf:org/name[@revision], pypi:package[==version], file:path or https://… . "
        "A relative file: path starts at the folder of this file; ~ is your home.",
    )
    url: tuple[str, ...] = Field(
        (),
        description="Servers that already run and speak OpenAI, one per replica, instead of `source`: "
        "http://host:port. A final /v1 is accepted and dropped.",
    )
    key: str | None = Field(None, description="env:NAME: the environment variable with the API key of the servers in `url`.")
    task: Literal["auto"] | Task = Field(
        "auto", description="generate or embed. auto: embed for encoder models (BERT and its kin), else generate."
    )
    engine: Engine = Field("auto", description="Which server runs the model; auto decides and says why.")
    context: Literal["auto"] | Annotated[int, Field(ge=16, le=2**24)] = Field(
        "auto",
        description="Tokens of prompt and answer together, per request. auto: the model's own limit, at most 4096, "
        "less when memory is short; for embedding the longest input that fits in `batch`.",
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "auto", description="Requests a replica serves at once. auto: 4 for llama.cpp, 256 for servers given by `url`."
    )
    replicas: Annotated[int, _read(lambda text: _fixed(text)), Field(ge=1, le=64)] = Field(
        1, description="How many copies run. Not with `url`, where every address is one replica."
    )

    @property
    def engine_name(self) -> EngineName:
        """The engine asked for, or auto."""
        return self.engine if isinstance(self.engine, str) else "llamacpp"

    @property
    def llamacpp(self) -> LlamaCppOptions:
        """What was asked of llama.cpp; the defaults when nothing was."""
        return self.engine.llamacpp if isinstance(self.engine, EngineOptions) else LlamaCppOptions()

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @field_validator("url")
    @classmethod
    def _servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        servers = tuple(server_url(text) for text in value)
        if len(set(servers)) < len(servers):
            raise ValueError("names the same server twice; each address is one replica")
        return servers

    @field_validator("key")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        # The value is not repeated: it may be the secret itself.
        if value is not None and not _KEY.fullmatch(value):
            raise ValueError("is not env:NAME, an environment variable; the key itself does not belong in the file")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSpec":
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for field, what in conflicts(given):
            raise ValueError(f"{field} {what}")
        return self


class Queue(_Strict):
    """The bounded queue in front of every model."""

    limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        512, description="Waiting requests per model; past it requests are refused with 429 and Retry-After."
    )
    wait: Seconds = Field(60.0, description="How long a request may wait for a free slot before it is refused.")


class GatewaySpec(_Strict):
    """The one OpenAI-compatible address in front of all models."""

    listen: str = Field(
        "127.0.0.1:8000",
        description="host:port, an IPv6 host in brackets; port 0 takes a free one. Beyond loopback only with "
        "--insecure in this version.",
    )
    queue: Queue = Field(Queue(), description="The bounded queue in front of every model.")
    drain: Seconds = Field(30.0, description="How long requests in flight may finish when Headrace stops.")
    body: Bytes = Field(32_000_000, description="Largest request body; past it requests are refused with 413.")

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        host_port(value)
        return value


class WeightsSpec(_Strict):
    """Where weights are kept."""

    cache: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Folder of the one cache for all models and processes. Default: HEADRACE_CACHE, else ~/.cache/headrace.",
    )


class Spec(_Strict):
    """The whole file."""

    models: dict[ModelName, ModelSpec] = Field(min_length=1, description="What to serve, by the name that clients use.")
    aliases: dict[ModelName, str] = Field({}, description="Other names for models: alias to model name.")
    gateway: GatewaySpec = Field(GatewaySpec(), description="The one OpenAI-compatible address in front of all models.")
    weights: WeightsSpec = Field(WeightsSpec(), description="Where weights are kept.")

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> "Spec":
        for alias, what in astray(self.models, self.aliases):
            raise ValueError(f"alias {alias} {what}")
        return self


SECTIONS: Mapping[str, type[BaseModel]] = {
    "": Spec,
    "models.*": ModelSpec,
    "models.*.engine": EngineOptions,
    "models.*.engine.llamacpp": LlamaCppOptions,
    "gateway": GatewaySpec,
    "gateway.queue": Queue,
    "weights": WeightsSpec,
}
"""Every mapping with fixed keys, by its path: what may be written there, and what the reference page is made of."""


def conflicts(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for keys of one model that exclude or need each other; "" for the model itself."""
    if given.get("source") and given.get("url"):
        yield "url", "cannot stand beside `source`: a model is either run from weights or already running."
    if not given.get("source") and not given.get("url"):
        yield "", "needs a `source` (weights to run) or a `url` (a server that runs already)."
    if given.get("key") is not None and not given.get("url"):
        yield "key", "belongs to servers given by `url`, and there are none."
    if given.get("replicas") is not None and given.get("url"):
        yield "replicas", "is not for servers given by `url`: each address there is one replica."
    if given.get("engine") not in (None, "auto") and given.get("url") and not given.get("source"):
        yield "engine", "is not for servers given by `url`: they run already."


def astray(models: Mapping[str, Any], aliases: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(alias, what is wrong) for aliases that hide a model or lead to none."""
    for alias, target in aliases.items():
        if alias in models:
            yield alias, "is a model's name already, which the alias would hide."
        elif isinstance(target, str) and target not in models:
            yield alias, f'leads to "{target}", which is not a model here.'


def _fixed(text: str) -> int:
    least, most = parse_range(text)
    if least != most:
        raise ValueError(f'"{text}": a range of replicas is not supported yet in this version; write a number such as 1')
    return least
