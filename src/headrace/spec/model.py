"""What the user asked, validated: frozen values, unknown keys refused. Text such as `16GB` becomes a number here, once.

Keys that a later version implements are listed in `NOT_YET` and refused by name, never ignored. Every description says
what the value means, its unit and its default: the JSON Schema and docs/reference/spec.md are made from them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from headrace.spec.addresses import LISTEN, host_port, server_url
from headrace.spec.connections import ConnectionsSpec
from headrace.spec.engines import OPTIONS, CustomOptions, Engine, EngineOptions, LlamaCppOptions
from headrace.spec.kubernetes import SECTIONS as KUBERNETES
from headrace.spec.kubernetes import KubernetesSpec, ScaleSpec
from headrace.spec.limits import Currency, PriceSpec, RedisSpec, in_full
from headrace.spec.machine import Hardware, MachineSpec
from headrace.spec.rules import astray, conflicts, doubled
from headrace.spec.tls import TlsSpec
from headrace.spec.values import Bytes, Count, Seconds, Strict, read
from headrace.traffic import Task
from headrace.units import parse_range

NOT_YET: Mapping[str, tuple[str, ...]] = {
    "weights": ("keep",),
}
"""Keys of later versions, by the path of the mapping they belong to (`*` is any model's name, "" the top)."""

Quantization = Literal["none", "fp8", "awq"]
Share = Literal["exclusive", "mig", "time-slice", "process", "swap"]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"
_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_GGUF_FORMAT = re.compile(r"(?:UD-)?I?Q[1-8]_\w{1,8}", re.IGNORECASE)


Settings = TypeVar("Settings", bound=Strict)
ModelName = Annotated[str, Field(pattern=NAME_PATTERN)]


class ForSpec(Strict):
    """What a model is for, in place of engine flags; `headrace plan --for` overrides single keys. 8k is 8192."""

    users: Count | None = Field(
        None, description="Requests at once. Here it sets `slots` where those are auto, 8 at most; on GPUs 8 when left out."
    )
    prompt: Count | None = Field(
        None, description="Tokens of a prompt. With `output` it sets `context` where that is auto; 512 when left out."
    )
    output: Count | None = Field(None, description="Tokens of an answer; 256 when left out.")
    context: Count | None = Field(
        None, description="The most tokens that one request may take: the same as `context` of the model."
    )
    ttft: Seconds | None = Field(
        None,
        description="Longest time to the first token, for 9 of 10 requests. Held against a simulation on GPUs, not checked here.",
    )
    tpot: Seconds | None = Field(
        None, description="Longest time per output token, on average. Held against an estimate on GPUs, not checked here."
    )

    @model_validator(mode="after")
    def _fits(self) -> "ForSpec":
        if problem := _too_short(self.context, self):
            raise ValueError(problem)
        return self


def _too_short(context: int | None, wanted: ForSpec) -> str | None:
    tokens = (wanted.prompt or 0) + (wanted.output or 0)
    if context is None or tokens <= context:
        return None
    return f"asks for {tokens} tokens of prompt and answer, and the context holds {context}; raise the context or ask for fewer"


def _known_format(value: Any) -> Any:
    if isinstance(value, str) and _GGUF_FORMAT.fullmatch(value):
        raise ValueError(f'"{value}" is a kind of GGUF file; pick it by the source, as in hf:org/name:{value.upper()}')
    return value


class ModelSpec(Strict):
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
        "auto",
        description="generate, embed, rerank or infer (tensors, code). auto: embed for encoder models (BERT and its kin), for "
        "code and what is no language model what it can do, else generate.",
    )
    engine: Engine = Field("auto", description="Which server runs the model; auto decides and says why.")
    context: Literal["auto"] | Annotated[int, Field(ge=16, le=2**24)] = Field(
        "auto",
        description="Tokens of prompt and answer together, per request. auto: the model's own limit, at most 4096, "
        "less when memory is short; for embedding the longest input that fits in `batch`. With lengths in `for`: what "
        "holds them.",
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        "auto",
        description="Requests a replica serves at once. auto: 4 for llama.cpp, with `for.users` "
        "as many, at most 8; 256 for servers given by `url`.",
    )
    quantization: Annotated[Literal["auto"] | Quantization, BeforeValidator(_known_format)] = Field(
        "auto",
        description="Number format of the weights on GPUs: none leaves them as they are. auto: as they are where they fit, else "
        "with the least loss. A GGUF is served as it is: pick its format by the source, hf:org/name:Q4_K_M.",
    )
    tensor_parallel: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="GPUs that one replica is split over. auto: the fewest that do, in "
        "a pipeline where that is better; a number means no pipeline. Without GPUs it is 1.",
    )
    share: Literal["auto"] | Share = Field(
        "auto",
        description="How it shares a GPU with other models: exclusive, mig (a slice of its own), time-slice, process or swap (in "
        "turn). auto: whichever packs best. On this machine only swap: it sleeps until asked for, and to make room for others.",
    )
    memory: Bytes | None = Field(
        None,
        description="What one replica takes, for code and what else Headrace cannot look into. Default: an estimate by the "
        "size of the file.",
    )
    adapters: dict[ModelName, str] = Field(
        {},
        description="LoRA adapters: the name that clients ask for, and where it is (file: or hf:). Only with engines that can.",
    )
    for_: ForSpec = Field(ForSpec(), alias="for", description="What it is for: users, lengths and latencies.")
    replicas: Annotated[int, read(lambda text: _fixed(text)), Field(ge=1, le=64)] = Field(
        1,
        description="How many copies run. A range follows the load, as in 1..8; 0..8 may sleep. Not with `url`, where every "
        "address is one replica.",
    )
    scale: ScaleSpec = Field(ScaleSpec(), description="How `replicas` follow the load, when they are a range.")
    price: PriceSpec | None = Field(None, description="What its tokens cost, for budgets in money. Default: not known.")

    @property
    def engine_name(self) -> str:
        """The engine asked for, or auto."""
        return self.engine if isinstance(self.engine, str) else self.engine.given[0]

    def options(self, kind: type[Settings]) -> Settings:
        """What was asked of the engine with settings of this kind; the defaults when nothing was."""
        name = next(name for name, settings in OPTIONS.items() if settings is kind)
        given = getattr(self.engine, name) if isinstance(self.engine, EngineOptions) else None
        return given if isinstance(given, kind) else kind()

    @property
    def llamacpp(self) -> LlamaCppOptions:
        """What was asked of llama.cpp; the defaults when nothing was."""
        return self.options(LlamaCppOptions)

    @property
    def command(self) -> tuple[str, ...]:
        """The user's own server, to be started; empty when there is none."""
        return self.options(CustomOptions).command

    @property
    def ours(self) -> bool:
        """Whether replicas of it are to be started; otherwise they run already."""
        return bool(self.source or self.command)

    @property
    def context_asked(self) -> int | None:
        """The tokens per request that were asked for, None when they are to be planned."""
        return self.for_.context if self.context == "auto" else self.context

    @field_validator("for_")
    @classmethod
    def _agrees(cls, value: ForSpec, info: ValidationInfo) -> ForSpec:
        context = info.data.get("context", "auto")
        if context == "auto":
            return value
        if value.context not in (None, context):
            raise ValueError(f"has the context {value.context} beside `context: {context}`; keep one of them")
        if problem := _too_short(context, value):
            raise ValueError(problem)
        return value

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
        names = {field.alias or name: name for name, field in type(self).model_fields.items()}
        given = {key: getattr(self, name) for key, name in names.items() if name in self.model_fields_set}
        for field, what in conflicts(given):
            raise ValueError(f"{field} {what}")
        return self


class Queue(Strict):
    """The bounded queue in front of every model."""

    limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        512, description="Waiting requests per model; past it requests are refused with 429 and Retry-After."
    )
    wait: Seconds = Field(60.0, description="How long a request may wait for a free slot before it is refused.")


class GatewaySpec(Strict):
    """The one OpenAI-compatible address in front of all models."""

    listen: str = Field(
        LISTEN,
        description="host:port, an IPv6 host in brackets; port 0 takes a free one. Beyond loopback only with `keys`, or with "
        "--insecure.",
    )
    keys: str | None = Field(
        None,
        description="Who may use it: file:PATH, a file that `headrace key add` writes, or env:NAME, a variable that holds "
        "NAME=KEY,NAME=KEY. Default: whoever reaches it.",
    )
    tls: TlsSpec | None = Field(None, description="The certificate to show. Default: plain HTTP.")
    queue: Queue = Field(Queue(), description="The bounded queue in front of every model.")
    currency: Currency = Field("USD", description="What prices are in: three letters.")
    redis: Annotated[RedisSpec | None, BeforeValidator(in_full)] = Field(
        None, description="Where gateways share the limits of keys. Default: each counts for itself (budgets: by their file)."
    )
    connections: ConnectionsSpec = Field(ConnectionsSpec(), description="Clients' connections that may be open at once.")
    log: Annotated[str, Field(min_length=1)] | None = Field(None, description="Access log: a file, or stdout. Default: none.")
    drain: Seconds = Field(30.0, description="How long requests in flight may finish when Headrace stops.")
    body: Bytes = Field(32_000_000, description="Largest request body; past it requests are refused with 413.")

    @field_validator("keys")
    @classmethod
    def _is_where_keys_are(cls, value: str | None) -> str | None:
        if value is not None and not _KEY.fullmatch(value) and not re.fullmatch(r"file:(?!//).+", value):
            raise ValueError("must say where keys are, never hold them; write file:keys.json or env:HEADRACE_KEYS")
        return value

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        host_port(value)
        return value


class WeightsSpec(Strict):
    """Where weights are kept."""

    cache: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Folder of the one cache for all models and processes. Default: HEADRACE_CACHE, else ~/.cache/headrace.",
    )


class Spec(Strict):
    """The whole file."""

    models: dict[ModelName, ModelSpec] = Field(min_length=1, description="What to serve, by the name that clients use.")
    aliases: dict[ModelName, str] = Field({}, description="Other names for models: alias to model name.")
    gateway: GatewaySpec = Field(GatewaySpec(), description="The one OpenAI-compatible address in front of all models.")
    weights: WeightsSpec = Field(WeightsSpec(), description="Where weights are kept.")
    machine: Hardware = Field(
        "auto",
        description="What `headrace plan` plans for, as its --machine: 2 x A100-80GB, azure:SIZE, or azure for all sizes. "
        "auto: the machine that it runs on, the only one that `headrace serve` serves on.",
    )

    @property
    def elsewhere(self) -> str | None:
        """The machine to plan for, as one writes it after --machine; None for the one we are on."""
        if isinstance(self.machine, str):
            return None if self.machine == "auto" else self.machine
        if self.machine.gpus is None and self.machine.azure is None:
            return None
        most = f" x {self.machine.max}" if self.machine.max is not None else ""
        return self.machine.gpus or f"azure:{self.machine.azure}{most}"

    @property
    def memory_limit(self) -> int | None:
        """The most bytes that models may take together on this machine; None is what is free."""
        return None if isinstance(self.machine, str) else self.machine.memory

    @property
    def usd_per_hour(self) -> float | None:
        """What the machine costs, as the file says; None where it says nothing."""
        return None if isinstance(self.machine, str) else self.machine.cost

    kubernetes: KubernetesSpec = Field(KubernetesSpec(), description="Used by the commands for Kubernetes only.")

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> "Spec":
        for alias, what in astray(self.models, self.aliases):
            raise ValueError(f"alias {alias} {what}")
        for model, adapter, what in doubled(self.models, self.aliases):
            raise ValueError(f"the adapter {adapter} of {model} {what}")
        return self


SECTIONS: Mapping[str, type[BaseModel]] = {
    "": Spec,
    "models.*": ModelSpec,
    "models.*.engine": EngineOptions,
    **{f"models.*.engine.{name}": options for name, options in OPTIONS.items()},
    "models.*.for": ForSpec,
    "models.*.scale": ScaleSpec,
    "models.*.price": PriceSpec,
    "gateway": GatewaySpec,
    "gateway.queue": Queue,
    "gateway.connections": ConnectionsSpec,
    "gateway.tls": TlsSpec,
    "gateway.redis": RedisSpec,
    "weights": WeightsSpec,
    "machine": MachineSpec,
    **KUBERNETES,
}
"""Every mapping with fixed keys, by its path: what may be written there, and what the reference page is made of."""


def fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section, as they are written."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _fixed(text: str) -> int:
    least, most = parse_range(text)
    if least != most:
        raise ValueError(f'"{text}" is a range; write a number such as 1 here, or `scale: {{replicas: {text}}}`')
    return least
