"""`headrace why` of a running gateway: one thing each, said once, with what to do; and nothing where nothing is."""

from typing import Any

import pytest

from headrace.errors import UsageError
from headrace.in_the_way import why_text


def replica(name: str = "chat-1", state: str = "ready", reason: str = "ready after 3s", restarts: int = 0) -> dict[str, Any]:
    return {"name": name, "state": state, "reason": reason, "restarts": restarts}


def status(phase: str, reason: str, *replicas: dict[str, Any], draining: bool = False, **load: Any) -> dict[str, Any]:
    counted = {"waiting": 0, "running": {"chat-1": 2}, "oldest_seconds": None} | load
    about = {"name": "chat", "aliases": ["gpt"], "also": ["chat:fr"], "slots": 2, "queue_limit": 3, "load": counted}
    return {"draining": draining, "models": [about | {"phase": phase, "reason": reason, "replicas": list(replicas)}]}


READY, FINE = "1 of 1 replicas ready", "Nothing stands in its way."
GONE = "exited with code 3 after 2s; last line: no weights"
OFTEN = f"failed 5 times in a row: {GONE}"
TABLE: list[tuple[str, dict[str, Any], str]] = [
    ("ready", status("ready", READY, replica()), f"chat is ready: {READY}. {FINE}"),
    ("asleep", status("asleep", "it starts when somebody asks"), f"chat is asleep: it starts when somebody asks. {FINE}"),
    # The model's reason tells of its first replica: once is enough.
    (
        "starts anew",
        status("loading", f"chat-1 is failed: {GONE}", replica(state="failed", reason=GONE)),
        f"chat is loading: chat-1 is failed: {GONE}.",
    ),
    (
        "given up",
        status("failed", OFTEN, replica(state="failed", reason=OFTEN, restarts=4)),
        f"chat has failed: {OFTEN}.\nWhat it wrote: headrace logs chat",
    ),
    ("no memory", status("failed", "weights 5 GiB, 2 GiB are free"), "chat has failed: weights 5 GiB, 2 GiB are free."),
    # It serves, and has died three times: whoever asks why sees it.
    (
        "ended",
        status("ready", READY, replica(restarts=3)),
        f"chat is ready: {READY}.\nchat-1 has ended 3 times and was started again.\nWhat it wrote: headrace logs chat",
    ),
    (
        "another one fails",
        status("ready", "1 of 2 replicas ready", replica(), replica("chat-2", "loading", "reads weights")),
        "chat is ready: 1 of 2 replicas ready.\nchat-2 is loading: reads weights.",
    ),
    (
        "waits",
        status("ready", READY, replica(), waiting=1, oldest_seconds=2.0),
        f"chat is ready: {READY}.\n2 of 2 slots are in use, and 1 request waits for one, the oldest for 2s.\n"
        "What would help, by what was recorded: headrace advise chat",
    ),
    (
        "full",
        status("ready", READY, replica(), waiting=3, oldest_seconds=9.0),
        f"chat is ready: {READY}.\nIts queue is full: 2 of 2 slots are in use, 3 requests wait, the oldest for 9s, and more "
        "are refused (429).\nWhat would help, by what was recorded: headrace advise chat",
    ),
    (
        "drains",
        status("ready", READY, replica(), draining=True),
        f"chat is ready: {READY}.\nThe gateway drains: what it has is answered, and nothing new is taken.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "said"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_it_names_the_thing(found: dict[str, Any], said: str) -> None:
    assert why_text(found, "chat") == said


@pytest.mark.parametrize("name", ["chat", "gpt", "chat:fr"])
def test_a_model_has_all_of_its_names(name: str) -> None:
    assert why_text(status("ready", READY), name).startswith("chat is ready")


def test_a_name_that_is_none_is_told_those_that_are() -> None:
    with pytest.raises(UsageError, match=r'no model "chatt". It has: chat\.'):
        why_text(status("ready", READY), "chatt")
