"""Find the model in a form with files (multipart/form-data, RFC 7578), where audio is sent, and give it another name there.

Nothing else of the form is read: its parts are passed over by their boundary, within limits, and their bytes stay as they are.
"""

import re
from dataclasses import dataclass

from headrace.gateway.openai import Ask, Refusal

PART_LIMIT = 64
"""Parts of a form."""
HEAD_BYTES = 4096
"""Of one part."""
NAME_BYTES = 1024
"""Of a model's name."""

_KIND = re.compile(
    rb"multipart/form-data *;(?:.*;)? *boundary=(?:\"([^\"\r\n]{1,70})\"|([!#-'*+.\w-]{1,70}))(?: *;.*)?", re.IGNORECASE
)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition *: *form-data((?: *; *[^\r\n]*)?)(?=\r\n|$)", re.IGNORECASE)
_NAME = re.compile(rb"; *name *= *(?:\"((?:[^\"\\\r\n]|\\.)*)\"|([^\s;\"]+))", re.IGNORECASE)


@dataclass(slots=True)
class FormAsk(Ask):
    """A request whose body is a form. `start` and `end` are where the name of its model is in the body."""

    start: int
    end: int


def peek_form(content_type: bytes, body: bytes) -> FormAsk:
    """Read what routing needs of a form. Raises Refusal."""
    kind = _KIND.fullmatch(content_type.strip())
    if kind is None:
        message = "This path takes a form with files: Content-Type must be multipart/form-data with a boundary."
        raise Refusal(415, message, "unsupported_media_type")
    found = [(start, end) for name, start, end in _parts(body, b"--" + (kind[1] or kind[2])) if name == b"model"]
    if len(found) != 1:
        message = f'The form has {len(found)} fields "model"; it needs one. GET /v1/models lists models.'
        raise Refusal(400, message, "missing_model" if not found else "invalid_form", param="model")
    start, end = found[0]
    try:
        model = body[start:end].decode() if end - start <= NAME_BYTES else ""
    except UnicodeDecodeError:
        model = ""
    if not model:
        raise Refusal(400, f'The field "model" must be a name of 1 to {NAME_BYTES} bytes.', "invalid_type", param="model")
    return FormAsk(model, False, 1, {}, True, start, end)


def renamed(ask: FormAsk, body: bytes, model: str) -> bytes:
    """The form for an engine that calls the model so."""
    return body if model == ask.model else body[: ask.start] + model.encode() + body[ask.end :]


def _parts(body: bytes, mark: bytes) -> list[tuple[bytes, int, int]]:
    """Each part's name, and where its content starts and ends."""
    parts: list[tuple[bytes, int, int]] = []
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at < 2 and not body.startswith(mark):
        raise _broken("its boundary is not there")
    while not body.startswith(b"--", at + len(mark)):
        if len(parts) == PART_LIMIT:
            raise _broken(f"it has more than {PART_LIMIT} parts")
        line = body.find(b"\r\n", at + len(mark), at + len(mark) + 72)  # spaces may follow the boundary
        head = body.find(b"\r\n\r\n", line, line + HEAD_BYTES) if line >= 0 else -1
        end = body.find(b"\r\n" + mark, head + 2) if head >= 0 else -1
        if end < 0:
            raise _broken("a part has no end, or too long a head")
        parts.append((_name(body[line + 2 : head]), head + 4, max(end, head + 4)))
        at = end + 2
    return parts


def _name(head: bytes) -> bytes:
    dispositions = _DISPOSITION.findall(head)
    names = _NAME.findall(dispositions[0]) if len(dispositions) == 1 else []
    if len(names) != 1:  # two readers might choose differently
        raise _broken("a part has not exactly one name")
    return bytes(names[0][0] or names[0][1])


def _broken(why: str) -> Refusal:
    return Refusal(400, f"The body is not a form that can be read: {why}.", "invalid_form")
