"""The user's file after a move: the keys that say so, and nothing else."""

import pytest

from headrace.cluster_graduation.file import graduated
from headrace.errors import UsageError

WHOLE = """\
# mine
models:
  chat:   # the one
    source: hf:org/name
    engine: llamacpp
kubernetes:
  namespace: ai   # here
"""
ROWS = [
    # every key is its own line, and comments stay
    (
        WHOLE,
        {"engine": "vllm", "context": 4096},
        "chat-b",
        WHOLE.replace("llamacpp\n", "vllm\n    context: 4096\n") + "  names: {chat: chat-b}\n",
    ),
    # the short form becomes the long one
    (
        "models: {chat: 'hf:a/b'}\n",
        {"engine": "vllm"},
        "chat-b",
        'models: {chat: {source: "hf:a/b", engine: vllm}}\nkubernetes: {names: {chat: chat-b}}\n',
    ),
    # back to the model's own name
    (WHOLE + "  names: {chat: chat-b}\n", {}, None, WHOLE),
    # other models' names stay
    (
        WHOLE + "  names: {chat: chat-b, other: o-b}\n",
        {},
        "chat-c",
        WHOLE + "  names: {chat: chat-c, other: o-b}\n",
    ),
    # what is so already is left alone
    (WHOLE, {"engine": "llamacpp"}, None, WHOLE),
]


@pytest.mark.parametrize(("before", "changes", "called", "after"), ROWS)
def test_only_what_is_meant_changes(before: str, changes: dict[str, object], called: str | None, after: str) -> None:
    assert graduated(before, "headrace.yaml", "chat", changes, called) == after


def test_done_twice_it_is_as_done_once() -> None:
    once = graduated(WHOLE, "headrace.yaml", "chat", {"engine": "vllm"}, "chat-b")
    assert graduated(once, "headrace.yaml", "chat", {"engine": "vllm"}, "chat-b") == once


def test_what_cannot_be_written_is_told_with_its_line_and_the_other_way() -> None:
    text = "models:\n  chat:\n    source: hf:a/b\n    engine:\n      vllm:\n        args: []\n"
    with pytest.raises(UsageError, match=r"headrace.yaml:4: models.chat.engine: llamacpp cannot be written.*without --to"):
        graduated(text, "headrace.yaml", "chat", {"engine": "llamacpp"}, None)
