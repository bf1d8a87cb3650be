"""The items of a Responses request → the messages of a chat."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from headrace.gateway.openai import Refusal
from headrace.gateway.translate.reading import converted


class _Item(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class _FunctionCall(msgspec.Struct):
    call_id: str
    name: str
    arguments: str


class _FunctionOutput(msgspec.Struct):
    call_id: str
    output: str | list[dict[str, Any]]


class _Part(msgspec.Struct):
    text: str


class _Reasoning(msgspec.Struct):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _Image(msgspec.Struct):
    image_url: str
    detail: str | None = None


def messages(instructions: str | None, given: str | list[Any]) -> list[dict[str, Any]]:
    """The chat that goes on with `given`. Raises Refusal for items that a chat has no word for, with their place."""
    made = _Messages()
    if instructions:
        made.system(instructions)
    if isinstance(given, str):
        made.add({"role": "user", "content": given})
        return made.all
    for number, item in enumerate(given):
        where = f"input.{number}"
        if not isinstance(item, dict):
            raise Refusal(400, f'"{where}" must be an object.', "invalid_type", param=where)
        kind = item.get("type") or ("message" if "role" in item else None)
        read = _ITEMS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise _unknown(kind, f"{where}.type")
        read(made, item, where)
    return made.all


class _Messages:
    """Messages in the making. What one turn of the assistant's is in a chat are several items here."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._thought = ""

    def add(self, message: dict[str, Any]) -> None:
        self.all.append(message)
        self._thought = ""

    def system(self, text: str) -> None:
        """At the start all of it is one message: many templates take one only."""
        if len(self.all) == 1 and self.all[0]["role"] == "system" and isinstance(self.all[0]["content"], str):
            self.all[0]["content"] += "\n\n" + text
        else:
            self.add({"role": "system", "content": text})

    def think(self, text: str) -> None:
        """The thought of the assistant's next message."""
        self._thought += text

    def say(self, content: str | list[dict[str, Any]]) -> None:
        thought, self._thought = self._thought, ""
        self.all.append({"role": "assistant", "content": content} | ({"reasoning_content": thought} if thought else {}))

    def call(self, call: dict[str, Any]) -> None:
        """A call belongs to the message, or to the calls, before it."""
        last = self.all[-1] if self.all else {}
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": None}
            self.all.append(last)
        if self._thought:
            last["reasoning_content"] = last.get("reasoning_content", "") + self._thought
            self._thought = ""
        last.setdefault("tool_calls", []).append(call)


def _message(made: _Messages, item: dict[str, Any], where: str) -> None:
    message = converted(item, _Item, where)
    content = message.content if isinstance(message.content, str) else _content(message.content, f"{where}.content")
    if message.role == "assistant":
        made.say(content)
    elif message.role in ("system", "developer") and isinstance(content, str):
        made.system(content)
    else:
        made.add({"role": "system" if message.role == "developer" else message.role, "content": content})


def _function_call(made: _Messages, item: dict[str, Any], where: str) -> None:
    call = converted(item, _FunctionCall, where)
    made.call({"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})


def _function_output(made: _Messages, item: dict[str, Any], where: str) -> None:
    result = converted(item, _FunctionOutput, where)
    output = result.output if isinstance(result.output, str) else _content(result.output, f"{where}.output")
    if not isinstance(output, str):
        message = f'"{where}.output": results of tools are text in a chat. Send the image in a message of the user\'s.'
        raise Refusal(400, message, "unsupported_parameter", param=f"{where}.output")
    made.add({"role": "tool", "tool_call_id": result.call_id, "content": output})


def _reasoning(made: _Messages, item: dict[str, Any], where: str) -> None:
    """Its text, or else its summary; what is encrypted only its maker can read."""
    reasoning = converted(item, _Reasoning, where)
    made.think("".join(part.text for part in reasoning.content or reasoning.summary or ()))


_ITEMS: dict[str, Callable[[_Messages, dict[str, Any], str], None]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_output,
    "reasoning": _reasoning,
}


def _content(parts: list[dict[str, Any]], where: str) -> str | list[dict[str, Any]]:
    """One text where there is nothing else: not every engine takes parts."""
    read = [_part(part, f"{where}.{number}") for number, part in enumerate(parts)]
    if all(part["type"] == "text" for part in read):
        return "\n".join(part["text"] for part in read)
    return read


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": converted(part, _Part, where).text}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal", ""))}
    if kind == "input_image":
        image = converted(part, _Image, where)
        return {"type": "image_url", "image_url": {"url": image.image_url} | ({"detail": image.detail} if image.detail else {})}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise _unknown(kind, f"{where}.type")


def _unknown(kind: object, where: str) -> Refusal:
    more = ": nothing is stored here; send the item itself, or set store to false" if kind == "item_reference" else ""
    return Refusal(400, f'"{where}": {kind!r} cannot be said in a chat{more}.', "unsupported_parameter", param=where)
