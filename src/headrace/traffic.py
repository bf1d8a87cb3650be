"""The only words gateway and control share: which replicas may be used, what stands in a model's way, what the gateway counts."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Task = Literal["generate", "embed", "rerank", "infer"]
"""What a model does: text, vectors, an order of documents, or tensors in and out (a classifier, a regression, any code)."""

Speaks = Literal["openai", "v2", "generate", "tgi", "http"]
"""What a replica understands: OpenAI's API; the Open Inference Protocol (KServe V2) for tensors; Triton's `generate` extension
of it for text; TGI's own `/generate`; or plain HTTP that only its own clients understand.
"""

Continues = Literal["final_message", "prefill", "prompt"]
"""How an engine goes on with a text that it did not begin. A completion goes on from its prompt and the text so far; `prompt`
can do no more. A chat goes on from a last message of the assistant: `prefill` takes it as it is, `final_message` when told so.
"""

Caches = Literal["blocks", "slots"]
"""What an engine keeps of prompts that it has read: `blocks`, for every prompt that begins with them, or in each of its slots the
last prompt there, for one request at a time.
"""

Phase = Literal["loading", "ready", "failed", "asleep"]
"""`asleep`: no replica runs, and one is started when somebody asks."""


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
    continues: Continues | None = None
    """How it goes on with an answer that another replica began; None: it cannot, or nobody has tried."""
    caches: Caches = "blocks"


@dataclass(frozen=True, slots=True)
class Split:
    """A model on its way from its replicas to others, the trial: `share` (0 to 1) of its conversations go to `replicas`."""

    replicas: frozenset[str]
    share: float


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Whether a model can answer: `loading` and `asleep` requests wait, `failed` ones get a 503 that gives `reason`."""

    model: str
    task: Task | None
    """None for servers that are not ours and may do both."""
    phase: Phase
    reason: str = ""
    context: int | None = None
    also: frozenset[str] = frozenset()
    """Other names that clients may ask for and that go to it as they are (see `Endpoint.also`)."""
    ready_in: float | None = None
    """Seconds until it should be ready, by earlier starts; None when nobody knows."""
    split: Split | None = None
    """Which part of the traffic goes to which replicas, while it graduates."""


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
    arrived: int = 0
    """Requests that came, whatever became of them; refused ones included."""
    oldest_seconds: float | None = None
    """How long the request has waited that waits longest; None when none does."""
    tpot_seconds: float | None = None
    """Mean time per output token after the first, recent answers weighing more."""
    lost: dict[str, int] = field(default_factory=dict)
    """Attempts that a replica failed before its first byte, by replica: the request was tried again."""


class Finished(NamedTuple):
    """One request that is over, without anything of what it said. Durations in seconds; None is unknown."""

    arrived: float
    """Monotonic seconds."""
    model: str
    replica: str
    """The last one that had it; empty when none did."""
    status: int
    tokens_in: int | None
    tokens_out: int | None
    waited: float
    ttft: float | None
    seconds: float
    key: str | None = None
    """The name of the key that it came with; None without keys."""
    cached: int = 0
    """Tokens of the prompt that the engine had cached, as far as it says so."""
