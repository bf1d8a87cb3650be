"""What an answer's bytes come to: whole, a clear error, or dropped; silence and cuts are never whole."""

import pytest

from headrace.drill.base import Wish
from headrace.drill.ended import ended
from headrace.drill.run import drill
from headrace.errors import UsageError

ERROR = b'{"error": {"message": "gone"}}'
ENDS = [
    (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n', True, "whole"),
    (200, b'{"choices": []}', False, "whole"),
    (200, b'data: {"choices": []}\n\n', True, "dropped"),  # cut: no end
    (200, b'{"choices": [', False, "dropped"),
    (200, b"", True, "dropped"),
    (200, b'data: {"choices": []}\n\ndata: ' + ERROR.replace(b": {", b":{", 1) + b"\n\n", True, "told"),
    (200, b"data: " + ERROR.replace(b": {", b":{", 1) + b"\n\ndata: [DONE]\n\n", True, "dropped"),  # looks whole to a client
    (503, ERROR, False, "told"),
    (502, b"", False, "dropped"),  # a status without a word
    (500, b"[" * 100_000, False, "dropped"),
]


@pytest.mark.parametrize(("status", "body", "stream", "end"), ENDS, ids=[str(n) for n in range(len(ENDS))])
def test_what_an_answer_comes_to(status: int, body: bytes, stream: bool, end: str) -> None:
    assert ended(status, body, stream=stream)[0] == end


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "https://example.org/v1"])
def test_only_what_is_here_is_drilled(url: str) -> None:
    with pytest.raises(UsageError, match="not on this machine"):
        drill(url, Wish("chat"), print)
