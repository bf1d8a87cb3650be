"""Which paths are the data path: what each is for, where it names its model, and which engines understand it as it is.

OpenAI's paths and Anthropic's name the model in the body. Those of the Open Inference Protocol (KServe V2 and V1, and Triton's
extensions of it) name it in the path, and so do those of plain servers: their bodies are nobody's business here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from headrace.traffic import Speaks, Task

Kind = Literal[
    "chat", "completions", "embeddings", "rerank", "infer", "generate", "generate_stream", "about", "ready", "predict",
    "upstream", "messages", "responses", "count", "tokens", "form", "speech",
]  # fmt: skip

_OPENAI: frozenset[Speaks] = frozenset(("openai", "tgi"))  # TGI's chat and completions are OpenAI's
_TENSORS: frozenset[Speaks] = frozenset(("v2", "generate"))
_STREAMED: frozenset[Kind] = frozenset(("chat", "completions", "messages", "responses", "generate_stream"))
_SAFE = ("GET", "HEAD", "OPTIONS")
_ANY = (*_SAFE, "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Route:
    """What is at a path. `model` is the name in it, empty when the body has it; names may be aliases and hold slashes."""

    kind: Kind
    task: Task | None
    """What a model must be able to do; None asks nothing of it."""
    methods: tuple[str, ...] = ("POST",)
    needs: tuple[str, ...] = ()
    """What the body must hold, and not be empty, unless `may_be_empty`."""
    may_be_empty: bool = False
    plain: frozenset[Speaks] = frozenset()
    """Engines that get the body as it is, when they speak one of these and the body names the model."""
    known_by: frozenset[Speaks] = frozenset()
    """Engines that get body and headers as they are and the path with their own name for the model."""
    folds: bool = False
    """Not streamed, it may be asked for as a stream and put together again."""
    done: bool = False
    """A stream ends with [DONE]."""
    safe: bool = True
    """May be sent again although an engine may have begun it."""
    special: bool = False
    """More of the body is read than its top level, or it is no JSON (see `asking.py`)."""
    optional: bool = False
    """Not every engine that speaks one of these has it: its 404 says that."""
    errors: Literal["openai", "anthropic", "responses"] = "openai"
    """How errors are put (see `envelope.py`), but for `plain_errors`; `responses` differs in streams only."""
    target: bytes = b""
    """The path at engines; empty: as it was asked for."""
    model: str = ""
    before: bytes = b""
    after: bytes = b""

    @property
    def streams(self) -> bool:
        """Whether an answer can be a stream of events that the gateway may begin; others ignore a `stream` that is asked for."""
        return self.kind in _STREAMED

    @property
    def plain_errors(self) -> bool:
        """Whether errors are `{"error": "text"}`, as the Open Inference Protocol wants them, and not OpenAI's objects."""
        return self.known_by <= _TENSORS and bool(self.known_by)

    def target_for(self, name: str) -> bytes:
        """The path at an engine that calls the model `name`; only for paths that name it."""
        if self.kind == "upstream":
            return self.after
        return self.before + quoted(name) + self.after


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route("chat", "generate", needs=("messages",), plain=_OPENAI, folds=True, done=True),
    "/v1/completions": Route(
        "completions", "generate", needs=("prompt",), may_be_empty=True, plain=_OPENAI, folds=True, done=True
    ),
    "/v1/embeddings": Route("embeddings", "embed", needs=("input",), plain=_OPENAI),
    # Jina's and Cohere's names for it; every engine that ranks has the first.
    **dict.fromkeys(
        ("/v1/rerank", "/rerank", "/v2/rerank"),
        Route("rerank", "rerank", needs=("query", "documents"), plain=_OPENAI, target=b"/v1/rerank"),
    ),
    # Other protocols, by way of a chat: the same for all engines, whatever they have of these themselves.
    "/v1/messages": Route("messages", "generate", needs=("messages", "max_tokens"), special=True, errors="anthropic"),
    "/v1/responses": Route("responses", "generate", needs=("input",), special=True, errors="responses"),
    # What only the engine knows, in its own words.
    "/v1/messages/count_tokens": Route(
        "count", "generate", needs=("messages",), plain=frozenset(("openai",)), optional=True, errors="anthropic"
    ),
    "/tokenize": Route("tokens", None, plain=_OPENAI, special=True, optional=True),
    "/detokenize": Route("tokens", None, needs=("tokens",), may_be_empty=True, plain=_OPENAI, optional=True),
    "/v1/audio/speech": Route("speech", None, needs=("input",), plain=frozenset(("openai",)), optional=True),
    **dict.fromkeys(
        ("/v1/audio/transcriptions", "/v1/audio/translations"),
        Route("form", None, known_by=frozenset(("openai",)), special=True, optional=True),
    ),
}
"""Paths whose requests name the model in their body."""

_VERBS: Mapping[str | None, Route] = {
    "infer": Route("infer", "infer", known_by=_TENSORS),
    "generate": Route("generate", "generate", known_by=frozenset(("generate",))),
    "generate_stream": Route("generate_stream", "generate", known_by=frozenset(("generate",))),
    "ready": Route("ready", None, ("GET", "HEAD"), known_by=_TENSORS),
    **dict.fromkeys((None, "config", "stats"), Route("about", None, ("GET", "HEAD"), known_by=_TENSORS)),
}
_PREDICT = Route("predict", "infer", known_by=frozenset(("v2",)))
_UPSTREAM = Route("upstream", None, _ANY, known_by=frozenset(("http",)))

# A name is as long as it can be: one that ends in /infer, say, is asked for with %2F.
_V2 = re.compile(r"/v2/models/(.+?)(/versions/[0-9A-Za-z_-]{1,64})?(?:/(" + "|".join(verb for verb in _VERBS if verb) + "))?")
_V1 = re.compile(r"/v1/models/(.+):predict")
_PASSED = re.compile(r"/upstream/([^/]+)(/.*)?", re.DOTALL)

SERVED = (
    "/v1/chat/completions, /v1/completions, /v1/responses, /v1/messages (and /count_tokens), /v1/embeddings, /v1/rerank, "
    "/v1/audio/… (transcriptions, translations, speech), /tokenize, /detokenize, /v1/models, /v1/models/NAME:predict, "
    "/v2/models/NAME/infer (and /generate, /generate_stream, /config, /ready, /stats), /upstream/NAME/…"
)
"""For whoever asked for something else."""


def find(method: str, path: str) -> Route | None:
    """What is at `path`, methods that it does not take included; None: nothing of the data path. `path` is Latin-1."""
    route = ROUTES.get(path)
    if route is not None:
        return route
    if match := _V2.fullmatch(path):
        name, version, verb = match.groups()
        after = (version or "") + (f"/{verb}" if verb else "")
        return _named(_VERBS[verb], name, b"/v2/models/", after)
    if method == "POST" and (match := _V1.fullmatch(path)):
        return _named(_PREDICT, match[1], b"/v1/models/", ":predict")
    if match := _PASSED.fullmatch(path):
        return replace(_named(_UPSTREAM, match[1], b"", match[2] or "/"), safe=method in _SAFE)
    return None


def quoted(name: str) -> bytes:
    """`name` as one segment of a path, escaped no more than it must be: Triton takes a path as it is written."""
    return quote_from_bytes(name.encode(), safe="!$&'()*+,;=:@").encode()


def _named(route: Route, name: str, before: bytes, after: str) -> Route:
    decoded = unquote_to_bytes(name.encode("latin-1")).decode("utf-8", "replace")
    return replace(route, model=decoded, before=before, after=after.encode("latin-1"))
