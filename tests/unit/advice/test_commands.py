"""What signals say to type can be typed as it stands: no gaps to fill in, every option is one, asked here and elsewhere."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from test_signals import CALM, CASES

from headrace.advice.advise import Question, elsewhere
from headrace.advice.base import Observed
from headrace.advice.commands import IMPORTED, importing
from headrace.advice.known import Setup, of_file
from headrace.advice.program import option
from headrace.advice.prometheus import Prometheus
from headrace.advice.series import Page, Series
from headrace.advice.signals import signals
from headrace.cli.entry import parser
from headrace.spec.load import loads
from headrace.terminal import Terminal

WHERE: list[dict[str, Any]] = [
    {},
    {"fixed": frozenset({"engine", "context"})},
    {"file": " '/srv/my models/chat.yaml'", "at": " --url http://127.0.0.1:9000"},
    {"here": False, "file": " chat.yaml"},
    {"here": False, "file": IMPORTED, "importing": importing("my inference", kaito=True)},
]


def pasted(command: str) -> list[list[str]]:
    """The command lines of Headrace in it, cut at && and |, without what is written where."""
    parts = re.split(r"&&|\|", command)
    lines = [shlex.split(part.split(">")[0]) for part in parts]
    return [line[1:] for line in lines if line[:1] == ["headrace"]]


@pytest.mark.parametrize("where", WHERE, ids=["here", "fixed", "another file and port", "elsewhere", "no file"])
@pytest.mark.parametrize(("name", "changed"), CASES, ids=[name for name, _ in CASES])
def test_every_command_is_one(name: str, changed: dict[str, Any], where: dict[str, Any]) -> None:
    seen: Observed = replace(CALM, **(changed | where))
    for one in signals(seen):
        assert "…" not in one.command, one
        for line in pasted(one.command):
            parser().parse_args(line)
        if one.holds == "holds":
            assert pasted(one.command), f"{one.name} says what to type"


def test_what_the_file_says_is_said_first() -> None:
    """A graduation is refused where the file names the engine: the next start would go back."""
    busy = replace(CALM, **dict(CASES)["another engine is faster here"])

    def told(seen: Observed) -> tuple[str, str]:
        one = next(row for row in signals(seen) if row.name == "another engine is faster here")
        return one.change, one.command

    assert told(busy) == ("move to openvino", "headrace graduate chat --to openvino")
    assert told(replace(busy, fixed=frozenset({"engine"}))) == (
        "move to openvino, once the file says engine: auto instead of llamacpp",
        "headrace reload && headrace graduate chat --to openvino",
    )


def test_a_context_that_the_file_says_is_changed_there() -> None:
    seen = replace(CALM, **dict(CASES)["context wasted"])
    commands = {}
    for fixed in (frozenset[str](), frozenset({"context"})):
        one = next(row for row in signals(replace(seen, fixed=fixed)) if row.name == "context wasted")
        commands[one.change] = one.command
    assert commands == {
        "context: 2048": "headrace graduate chat --to llamacpp --context 2048",
        "write context: 2048 into the file": "headrace reload",
    }


class Busy(Prometheus):
    """Of a vLLM whose requests wait for a full cache."""

    def page(self, since: float, until: float) -> Page:
        times = [since + 15 * place for place in range(240)]
        labels = {"model_name": "chat", "pod": "chat-0"}
        seen = {"vllm:num_requests_waiting": 4.0, "vllm:num_requests_running": 8.0, "vllm:kv_cache_usage_perc": 1.0}
        return Page([Series(name, labels, dict.fromkeys(times, value)) for name, value in seen.items()], times)


FILES: list[tuple[Setup | None, str]] = [
    (
        None,
        "kubectl get deployments,statefulsets -n ai -o yaml | headrace import - > imported.yaml && headrace plan imported.yaml",
    ),
    (of_file(loads("models: {chat: {source: 'hf:org/chat', engine: vllm}}")), "headrace plan"),
    (of_file(loads("models: {chat: {source: 'hf:org/chat', engine: vllm}}"), "/srv/chat.yaml"), "headrace plan /srv/chat.yaml"),
]


@pytest.mark.parametrize(("known", "command"), FILES, ids=["no file", "the usual file", "another file"])
def test_where_there_is_no_file_it_is_made_first(known: Setup | None, command: str) -> None:
    """And never over one that may be there: the usual name is not taken."""
    found = elsewhere(Busy("http://127.0.0.1:9090", "ai"), known, Question(None, 0.0, 3600.0), Terminal())["chat"]
    assert next(one.command for one in found if one.name == "memory binds") == f"{command} --machine azure"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8000", ""),  # where commands ask by themselves
        ("http://0.0.0.0:8000", ""),
        ("http://127.0.0.1:9000", " --url http://127.0.0.1:9000"),
        ("https://0.0.0.0:8000", " --url https://127.0.0.1:8000"),
        ("http://[::]:9000", " --url http://[::1]:9000"),
        ("", ""),  # it has left the port to another
    ],
)
def test_a_gateway_is_named_by_where_it_listens(url: str, said: str) -> None:
    assert option(url) == said
