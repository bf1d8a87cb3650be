"""Read a request of OpenAI's Responses API as a chat. Nothing is stored here: whatever would need it is refused by name.

Fields that this API does not know go on to the engine as they are. Those that are ignored are named in docs/clients.md.
"""

from typing import Any, Literal

import msgspec

from headrace.gateway.openai import Ask, Refusal
from headrace.gateway.translate.reading import converted, decoded, refuse_given, rest
from headrace.gateway.translate.responses_answer import ResponseAnswer
from headrace.gateway.translate.responses_items import messages
from headrace.gateway.translate.through import Spoken, spoken


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str = "output"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Tool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None


class _Request(msgspec.Struct):
    input: str | list[Any]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    user: str | None = None


_STATE = ("previous_response_id", "conversation", "background")
_REFUSED = (
    *("prompt", "top_logprobs", "context_management", "moderation", "image", "access_programs", "background_options", "steering"),
    *("n", "messages", "functions", "logprobs"),
)
_IGNORED = (
    *("metadata", "stream", "stream_options", "model", "safety_identifier", "prompt_cache_key", "prompt_cache_options"),
    *("prompt_cache_retention", "service_tier", "max_tool_calls"),
)
_KNOWN = frozenset((*_Request.__struct_fields__, *_STATE, *_REFUSED, *_IGNORED))
_INCLUDED = "reasoning.encrypted_content"  # reasoning is sent in the open; clients that keep no state ask for this always
_STATELESS = "nothing is stored here: send the whole conversation as input, each time."


def read(ask: Ask, body: bytes) -> Spoken:
    """The chat that `body` asks for. Raises Refusal."""
    request = decoded(body, _Request)
    _refuse(ask, request)
    fields = rest(ask.fields, _KNOWN)
    fields |= {"messages": messages(request.instructions, request.input)}
    named = {
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "parallel_tool_calls": request.parallel_tool_calls,
        "user": request.user,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": _format(request.text.format if request.text else None),
        "tools": [_tool(tool, f"tools.{number}") for number, tool in enumerate(request.tools or ())] or None,
        "tool_choice": _tool_choice(request.tool_choice),
    }
    fields |= {name: value for name, value in named.items() if value is not None}
    said = _said(ask, request)
    return spoken(ask, fields, lambda identity, now: ResponseAnswer(identity, now, said, stream=ask.stream))


def _refuse(ask: Ask, request: _Request) -> None:
    for name in _STATE:
        if name in ask.fields and bytes(ask.fields[name]) not in (b"null", b"false"):
            raise Refusal(400, f'"{name}": {_STATELESS}', "unsupported_parameter", param=name)
    if request.store:
        message = '"store": nothing is stored here. Leave it out, or set it to false.'
        raise Refusal(400, message, "unsupported_parameter", param="store")
    if request.truncation == "auto":
        message = '"truncation": input that is too long is refused here, not shortened. Leave it out.'
        raise Refusal(400, message, "unsupported_parameter", param="truncation")
    for number, name in enumerate(request.include or ()):
        if name != _INCLUDED:
            raise Refusal(400, f'"include.{number}": "{name}" cannot be had here.', "unsupported_parameter", param="include")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise Refusal(400, '"max_output_tokens" must be at least 1.', "invalid_value", param="max_output_tokens")
    refuse_given(ask.fields, _REFUSED, "/v1/responses")


def _format(given: _Format | None) -> dict[str, Any] | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.schema is None:
        raise Refusal(400, '"text.format.schema" is missing.', "missing_required_parameter", param="text.format.schema")
    more = {"strict": given.strict, "description": given.description}
    schema = {"name": given.name, "schema": given.schema} | {key: value for key, value in more.items() if value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _tool(given: dict[str, Any], where: str) -> dict[str, Any]:
    if given.get("type") != "function":
        message = (
            f"\"{where}.type\": {given.get('type')!r} is a tool of OpenAI's servers; tools here are functions of the client's."
        )
        raise Refusal(400, message, "unsupported_parameter", param=f"{where}.type")
    tool = msgspec.to_builtins(converted(given, _Tool, where))
    return {"type": "function", "function": {key: value for key, value in tool.items() if value is not None}}


def _tool_choice(given: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if given is None or given in ("auto", "none", "required"):
        return given
    if isinstance(given, dict) and given.get("type") == "function" and isinstance(given.get("name"), str):
        return {"type": "function", "function": {"name": given["name"]}}
    message = '"tool_choice" can be "auto", "none", "required" or {"type": "function", "name": …} here.'
    raise Refusal(400, message, "unsupported_parameter", param="tool_choice")


def _said(ask: Ask, request: _Request) -> dict[str, Any]:
    """What an answer repeats of its request."""
    fields = ask.fields
    given = {
        name: fields[name] for name in ("metadata", "safety_identifier", "prompt_cache_key", "max_tool_calls") if name in fields
    }
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": {},
        "model": ask.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": fields.get("reasoning") or {"effort": None, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": fields["text"] if request.text and request.text.format else {"format": {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": request.user,
    } | given
