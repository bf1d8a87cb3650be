"""Read a request of Anthropic's Messages API as a chat. What a chat cannot say is refused by name, where it stands.

Fields that this API does not know go on to the engine as they are (min_p, seed …). Those that are ignored, because leaving
them out changes no answer that an engine here could give, are named in docs/clients.md.
"""

from typing import Any, Literal

import msgspec

from headrace.gateway.openai import Ask, Refusal
from headrace.gateway.translate.messages_answer import MessageAnswer
from headrace.gateway.translate.reading import decoded, refuse_given, rest
from headrace.gateway.translate.through import Spoken, spoken


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Source(msgspec.Struct):
    type: Literal["base64", "url"]
    media_type: str = ""
    data: str = ""
    url: str = ""


class _Image(msgspec.Struct, tag="image"):
    source: _Source


class _Thinking(msgspec.Struct, tag="thinking"):
    thinking: str


class _Redacted(msgspec.Struct, tag="redacted_thinking"):
    """What only Anthropic can read."""


class _ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class _ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[_Text | _Image] | None = None
    is_error: bool | None = None


_Block = _Text | _Image | _Thinking | _Redacted | _ToolUse | _ToolResult


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkingConfig(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _Output(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Request(msgspec.Struct):
    messages: list[_Message]
    max_tokens: int
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    stop_sequences: list[str] | None = None
    thinking: _ThinkingConfig | None = None
    output_config: _Output | None = None
    metadata: _Metadata | None = None
    chat_template_kwargs: dict[str, Any] | None = None


_REFUSED = ("container", "mcp_servers", "inference_geo", "n", "logprobs", "top_logprobs", "functions", "function_call")
_IGNORED = frozenset(
    ("cache_control", "context_management", "diagnostics", "service_tier", "speed", "stream", "model", "stream_options")
)
_KNOWN = frozenset(_Request.__struct_fields__) | _IGNORED | frozenset(_REFUSED)


def read(ask: Ask, body: bytes) -> Spoken:
    """The chat that `body` asks for. Raises Refusal."""
    request = decoded(body, _Request)
    refuse_given(ask.fields, _REFUSED, "/v1/messages")
    if request.max_tokens < 1:
        raise Refusal(400, '"max_tokens" must be at least 1.', "invalid_value", param="max_tokens")
    fields = rest(ask.fields, _KNOWN)
    fields |= {"messages": _messages(request), "max_tokens": request.max_tokens}
    fields |= {"stop": request.stop_sequences} if request.stop_sequences else {}
    fields |= {"user": request.metadata.user_id} if request.metadata and request.metadata.user_id else {}
    fields |= _tools(request) | _thinking(request) | _output(request.output_config) | _continued(request)
    return spoken(ask, fields, lambda identity, _: MessageAnswer(identity, ask.model, stream=ask.stream))


def _messages(request: _Request) -> list[dict[str, Any]]:
    system = request.system if isinstance(request.system, str | None) else "\n".join(block.text for block in request.system)
    messages = [{"role": "system", "content": system}] if system else []
    for number, message in enumerate(request.messages):
        where = f"messages.{number}"
        if isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            messages.append(_assistant(message.content, where))
        else:
            messages += _user(message.role, message.content, where)
    return messages


def _assistant(blocks: list[_Block], where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for number, block in enumerate(blocks):
        if isinstance(block, _Text):
            texts.append(block.text)
        elif isinstance(block, _Thinking):
            thoughts.append(block.thinking)
        elif isinstance(block, _ToolUse):
            arguments = msgspec.json.encode(block.input).decode()
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
        elif not isinstance(block, _Redacted):
            raise _misplaced(block, f"{where}.content.{number}", "assistant")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return message | ({"tool_calls": calls} if calls else {})


def _user(role: str, blocks: list[_Block], where: str) -> list[dict[str, Any]]:
    """Results of tools are messages of their own in a chat; images in them follow in the user's, for tools' hold text only."""
    results: list[dict[str, Any]] = []
    parts: list[_Text | _Image] = []
    for number, block in enumerate(blocks):
        if isinstance(block, _Text | _Image):
            parts.append(block)
        elif isinstance(block, _ToolResult):
            inside = [_Text(block.content)] if isinstance(block.content, str) else block.content or []
            text = "\n".join(part.text for part in inside if isinstance(part, _Text))
            parts += [part for part in inside if isinstance(part, _Image)]
            content = f"Error: {text}" if block.is_error else text
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})
        else:
            raise _misplaced(block, f"{where}.content.{number}", role)
    return results + ([{"role": role, "content": _content(parts)}] if parts or not results else [])


def _content(parts: list[_Text | _Image]) -> str | list[dict[str, Any]]:
    """One text where there is nothing else: not every engine takes parts."""
    texts = [part.text for part in parts if isinstance(part, _Text)]
    if len(texts) == len(parts):
        return "\n".join(texts)
    return [{"type": "text", "text": part.text} if isinstance(part, _Text) else _image(part.source) for part in parts]


def _image(source: _Source) -> dict[str, Any]:
    url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tools(request: _Request) -> dict[str, Any]:
    tools = []
    for number, tool in enumerate(request.tools or ()):
        if tool.type not in (None, "custom"):
            message = f'"tools.{number}.type": "{tool.type}" is a tool of Anthropic\'s servers; tools here are the client\'s own.'
            raise Refusal(400, message, "unsupported_parameter", param=f"tools.{number}.type")
        function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
        tools.append({"type": "function", "function": {key: value for key, value in function.items() if value is not None}})
    return ({"tools": tools} if tools else {}) | _tool_choice(request.tool_choice)


def _tool_choice(choice: _ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice.type == "tool" and not choice.name:
        raise Refusal(400, '"tool_choice.name" is missing.', "missing_required_parameter", param="tool_choice.name")
    named = {"type": "function", "function": {"name": choice.name}}
    said = {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice.type]
    return {"tool_choice": said} | ({"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {})


def _thinking(request: _Request) -> dict[str, Any]:
    """Templates that can think or not ask for this variable (Qwen's word for it, which others have taken over)."""
    given = request.chat_template_kwargs
    thinks = {"enabled": True, "disabled": False}.get(request.thinking.type) if request.thinking else None
    if thinks is None:
        return {"chat_template_kwargs": given} if given else {}
    return {"chat_template_kwargs": {"enable_thinking": thinks} | (given or {})}


def _output(config: _Output | None) -> dict[str, Any]:
    if config is None:
        return {}
    fields: dict[str, Any] = {}
    if config.effort:
        fields["reasoning_effort"] = "high" if config.effort in ("xhigh", "max") else config.effort
    if config.format:
        schema = {"name": "output", "schema": config.format.schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _continued(request: _Request) -> dict[str, Any]:
    """An assistant's message at the end is the start of the answer, which goes on from there."""
    if not request.messages or request.messages[-1].role != "assistant":
        return {}
    return {"continue_final_message": True, "add_generation_prompt": False}


def _misplaced(block: _Block, where: str, role: str) -> Refusal:
    kind = block.__struct_config__.tag
    return Refusal(400, f'"{where}": a block "{kind}" cannot stand in a message of the {role}.', "invalid_value", param=where)
