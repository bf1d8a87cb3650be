"""Read a chat or a completion for an engine that completes one text: its prompt, its limit, how to sample.

What such an engine cannot do is refused by name: a field that is ignored in silence gives wrong answers.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from headrace.gateway.openai import Refusal
from headrace.gateway.translate.base import Asked
from headrace.gateway.translate.template import rendered

MAX_TOKENS = 4096
"""Asked for where neither client nor context says how long an answer may be: engines' own default is 16."""

SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("stop_token_ids", "ignore_eos", "min_tokens", "bad_words"),
)
"""Fields that are passed on under the same name, by engines that know them; `stop` is one more, which all know."""

_NOTHING: tuple[Any, ...] = (None, False, 0, [], {}, "")
_REFUSED = (
    *("tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "n_probs", "logit_bias", "suffix", "echo", "audio"),
    *("continue_final_message", "allowed_token_ids", "use_beam_search"),
    *("grammar", "json_schema", "regex", "ebnf", "structural_tag", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_whitespace_pattern"),
)
_ZERO_ASKS = ("logprobs", "prompt_logprobs")
"""Of 0 others: that of the token itself is asked for."""


class Wanted(NamedTuple):
    """What the engine is asked. `max_tokens` was the client's, or else is as much as the model has room for."""

    prompt: str
    max_tokens: int
    sampling: Mapping[str, Any]
    usage: bool
    """A stream shall end with the usage."""


class _Fields(msgspec.Struct):
    messages: list[dict[str, Any]] = []
    prompt: str | list[Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    best_of: int | None = None
    response_format: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None


def wanted(asked: Asked, sampling: Collection[str]) -> Wanted:
    """What `asked` asks of an engine that knows these fields for `sampling`. Raises Refusal."""
    given = msgspec.json.decode(msgspec.json.encode(asked.ask.fields), type=dict[str, Any])
    try:
        fields = msgspec.convert(given, _Fields)
    except msgspec.ValidationError as error:
        raise Refusal(400, f"The request has a value of the wrong kind: {error}.", "invalid_type") from None
    _refuse_what_cannot_be(given, fields, sampling)
    prompt = _chat(asked, fields, given) if asked.kind == "chat" else _one_prompt(fields.prompt)
    limit = _limit(fields) or asked.context or MAX_TOKENS
    values = {name: given[name] for name in sampling if given.get(name) is not None}
    if fields.stop:
        values["stop"] = [fields.stop] if isinstance(fields.stop, str) else fields.stop
    return Wanted(prompt, limit, values, bool((fields.stream_options or {}).get("include_usage")))


def _limit(fields: _Fields) -> int | None:
    """Tokens of the answer; None where the client does not say."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit: int | None = getattr(fields, name)
        if limit is not None and limit < 1:
            raise Refusal(400, f'"{name}" must be at least 1.', "invalid_value", param=name)
    return fields.max_completion_tokens or fields.max_tokens


def _refuse_what_cannot_be(given: Mapping[str, Any], fields: _Fields, sampling: Collection[str]) -> None:
    unknown = [name for name in SAMPLING if name not in sampling and (name, given.get(name)) != ("repetition_penalty", 1)]
    refused = [name for name in (*_REFUSED, *unknown) if _asks(name, given.get(name))]
    if given.get("tool_choice") == "none":
        refused = [name for name in refused if name not in ("tools", "functions")]
    refused += [name for name in ("n", "best_of") if (getattr(fields, name) or 1) > 1]
    refused += ["response_format"] if (fields.response_format or {}).get("type", "text") != "text" else []
    if refused:
        names = ", ".join(f'"{name}"' for name in refused)
        message = f"This model's engine completes text only: {names} cannot be had from it."
        raise Refusal(400, message, "unsupported_parameter", param=refused[0])


def _asks(name: str, value: Any) -> bool:
    return value not in _NOTHING or (name in _ZERO_ASKS and value == 0 and value is not False)


def _chat(asked: Asked, fields: _Fields, given: Mapping[str, Any]) -> str:
    if asked.template is None:
        message = f'Model "{asked.ask.model}" has no chat template, and its engine completes text only. Use /v1/completions.'
        raise Refusal(400, message, "no_chat_template", param="messages")
    messages = [message | {"content": _text(message.get("content"))} for message in fields.messages]
    more = dict(fields.chat_template_kwargs or {})
    if fields.add_generation_prompt is not None:
        more["add_generation_prompt"] = fields.add_generation_prompt
    return rendered(asked.template, messages, asked.now, more)


def _text(content: Any) -> str | None:
    """Parts of text joined, as templates want it."""
    if not isinstance(content, list):
        return content if content is None or isinstance(content, str) else str(content)
    if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
        raise Refusal(400, "This model's engine reads text only, no images or audio.", "unsupported", param="messages")
    return "".join(part["text"] for part in content)


def _one_prompt(prompt: str | list[Any] | None) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refusal(400, "This model's engine takes one prompt of text at a time.", "unsupported", param="prompt")
    return prompt
