"""A request's body → what to generate, or a refusal in OpenAI's words."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.runners import serving
from headrace.runners.openai import Json, Refused
from headrace.runners.openvino_schema import Unsupported, check

MOST_CHOICES = 128
MOST_STOPS = 16
COMPLETION_TOKENS = 16
"""Tokens of a plain completion that names no number, as at OpenAI's."""

_NOT_OFFERED = {
    "tools": "tools",
    "functions": "functions",
    "logprobs": "log probabilities",
    "top_logprobs": "log probabilities",
    "logit_bias": "a logit bias",
    "echo": "an echo of the prompt",
    "suffix": "a suffix",
    "audio": "audio",
    "continue_final_message": "an answer that goes on from its start",
}
"""What would be silently missing from the answer, so it is refused when asked for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to generate one answer; `schema` is the JSON schema as text, None for free text."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens to go on from, and how."""

    tokens: tuple[int, ...]
    settings: Settings


class Reader:
    """Reads bodies for a model with `context` tokens. `encode` makes tokens of text, `render` a prompt of messages."""

    def __init__(self, context: int, encode: Callable[[str], Sequence[int]], render: Callable[[list[Json]], str]) -> None:
        self._context, self._encode, self._render = context, encode, render

    def chat(self, body: Json) -> list[Prompt]:
        """The prompts of a chat, one for each of its choices. Raises Refused."""
        _offered(body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages", "a list of at least one message")
        try:
            text = self._render([_message(message) for message in messages])
        except RuntimeError as cause:  # the template's own refusal, or what it makes of these messages
            raise Refused(400, f"The model's chat template: {serving.cause(cause)}", "invalid_messages", "messages") from cause
        return self._prompts(body, [text], "messages", None)

    def completion(self, body: Json) -> list[Prompt]:
        """The prompts of a plain completion: for each text given, one for each choice. Raises Refused."""
        _offered(body)
        given = body.get("prompt")
        texts: list[Any] = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise _wrong("prompt", "text, or a list of texts")
        return self._prompts(body, texts, "prompt", COMPLETION_TOKENS)

    def _prompts(self, body: Json, texts: Sequence[str], param: str, default: int | None) -> list[Prompt]:
        choices = _number(body, "n", 1, 1, MOST_CHOICES, whole=True)
        if choices * len(texts) > MOST_CHOICES:
            raise Refused(400, f"At most {MOST_CHOICES} answers can be asked for at once.", "invalid_value", "n")
        prompts = []
        for text in texts:
            tokens = self._tokens(text, param)
            settings = self._settings(body, self._context - len(tokens), default)
            prompts += [Prompt(tokens, _with_seed(settings, body, index)) for index in range(int(choices))]
        return prompts

    def _tokens(self, text: str, param: str) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as cause:
            raise _wrong(param, "text that is valid Unicode") from cause
        tokens = tuple(self._encode(text))
        if not tokens:
            raise Refused(400, "The prompt is empty.", "invalid_value", param)
        if len(tokens) >= self._context:
            raise Refused(
                400,
                f"This model's maximum context length is {self._context} tokens. However, your {param} resulted in "
                f"{len(tokens)} tokens. Please reduce the length of the {param}.",
                "context_length_exceeded",
                param,
            )
        return tokens

    def _settings(self, body: Json, room: int, default: int | None) -> Settings:
        asked = body.get("max_completion_tokens")
        name = "max_tokens" if asked is None else "max_completion_tokens"
        wanted = _number(body, name, default if default is not None else room, 1, math.inf, whole=True)
        return Settings(
            max_tokens=int(min(wanted, room)),
            temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
            top_p=_number(body, "top_p", 1.0, 0.0, 1.0, above=True),
            top_k=int(_number(body, "top_k", 0, -1, 2**31 - 1, whole=True)),
            min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
            presence_penalty=_number(body, "presence_penalty", 0.0, -2.0, 2.0),
            frequency_penalty=_number(body, "frequency_penalty", 0.0, -2.0, 2.0),
            repetition_penalty=_number(body, "repetition_penalty", 1.0, 0.0, 10.0, above=True),
            stops=_stops(body.get("stop")),
            ignore_eos=_flag(body, "ignore_eos"),
            schema=_schema(body.get("response_format")),
        )


def _with_seed(settings: Settings, body: Json, index: int) -> Settings:
    """OpenVINO's seed is 0 where none is given, which makes all answers to a question the same; so ours is by chance."""
    seed = _number(body, "seed", -1, -(2**63), 2**64 - 1, whole=True)
    given = body.get("seed") is not None
    return replace(settings, seed=(int(seed) + index) % 2**32 if given else random.getrandbits(32))


def _offered(body: Json) -> None:
    for name, what in _NOT_OFFERED.items():
        if body.get(name) not in (None, False, [], {}, "") and not (name == "top_logprobs" and body[name] == 0):
            message = f"This engine (OpenVINO) does not offer {what}; llama.cpp and vLLM may: leave {name!r} out."
            raise Refused(400, message, "unsupported_parameter", name)


def _message(message: Any) -> Json:
    """A message with its content as text, which is what templates know. Raises Refused."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _wrong("messages", "messages with a role")
    return {**message, "content": _content(message.get("content"))}


def _content(content: Any) -> str:
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _wrong("messages", "messages whose content is text")
    return "".join(part["text"] for part in parts)


def _stops(given: Any) -> tuple[str, ...]:
    strings = [] if given is None else given if isinstance(given, list) else [given]
    if len(strings) > MOST_STOPS or not all(isinstance(string, str) and string for string in strings):
        raise _wrong("stop", f"text, or at most {MOST_STOPS} texts, none of them empty")
    return tuple(strings)


def _schema(form: Any) -> str | None:
    """The JSON schema that the answer must have, None for any text. Raises Refused."""
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    wrapped = form.get("json_schema") if kind == "json_schema" else None
    if not isinstance(wrapped, dict) or "schema" not in wrapped:
        raise _wrong("response_format", 'of type "text", "json_object", or "json_schema" with a "schema" in "json_schema"')
    try:
        return check(wrapped["schema"])
    except Unsupported as cause:
        raise Refused(400, f"The schema cannot be used: {cause}.", "unsupported_schema", "response_format") from cause


def _number(
    body: Mapping[str, Any], name: str, default: float, least: float, most: float, *, whole: bool = False, above: bool = False
) -> float:
    """The number `name`, from `least` (`above` it) to `most`; `default` where it is not there. Raises Refused."""
    value = body.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most or (above and value == least):
        bound = f"above {least:g}" if above else f"of at least {least:g}"
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise _wrong(name, f"a {'whole number' if whole else 'number'} {bound}{limit}")
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise _wrong(name, "true or false")
    return bool(value)


def _wrong(name: str, what: str) -> Refused:
    return Refused(400, f"{name!r} must be {what}.", "invalid_value", name)
