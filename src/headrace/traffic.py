"""The only words gateway and control share: which replicas may be used, what stands in a model's way, what the gateway counts."""

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["generate", "embed", "rerank", "infer"]
"""What a model does: text, vectors, an order of documents, or tensors in and out (a classifier, a regression, any code)."""

Speaks = Literal["openai", "v2", "generate", "tgi", "http"]
"""What a replica understands: OpenAI's API; the Open Inference Protocol (KServe V2) for tensors; Triton's `generate` extension
of it for text; TGI's own `/generate`; or plain HTTP that only its own clients understand.
"""

Phase = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica that the gateway may use.

    `address` is `unix:/path/to.sock` or `http://host:port`. `slots` bounds the requests in flight there; 0 means it drains:
    what runs may finish, nothing new is sent. `model_there` is what the engine calls the model. `folds` says that the engine
    notices a lost client only while it streams: requests that are not streams are streamed from it and put together again.
    """

    replica: str
    model: str
    address: str
    slots: int
    model_there: str
    folds: bool = False
    key: str | None = field(default=None, repr=False)
    speaks: Speaks = "openai"
    template: str | None = field(default=None, repr=False)
    """The model's chat template (Jinja), for engines that only complete text."""
    also: frozenset[str] = frozenset()
    """Names besides the model's that the engine knows itself: LoRA adapters, the models of a repository."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Whether a model can answer: `loading` requests wait, `failed` ones get a 503 that gives `reason`."""

    model: str
    task: Task | None
    """None for servers that are not ours and may do both."""
    phase: Phase
    reason: str = ""
    context: int | None = None
    also: frozenset[str] = frozenset()
    """Other names that clients may ask for and that go to it as they are (see `Endpoint.also`)."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateway counts of one model. Counters since start; durations in seconds, None before the first sample."""

    model: str
    waiting: int
    running: dict[str, int]
    """Requests in flight by replica."""
    requests: int
    refused: int
    failed: int
    tokens_in: int
    tokens_out: int
    service_seconds: float | None
    """Mean time a request holds its slot, recent requests weighing more."""
    ttft_seconds: float | None
    """Mean time to first token, recent requests weighing more."""
