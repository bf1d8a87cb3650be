"""What signals say to type can be typed as it stands: no gaps to fill in, every option is one, asked here and elsewhere."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from test_signals import CALM, CASES

from headrace.advice.base import Observed
from headrace.advice.signals import signals
from headrace.cli.entry import parser

WHERE: list[dict[str, Any]] = [
    {},
    {"fixed": frozenset({"engine", "context"})},
    {"file": " '/srv/my models/chat.yaml'", "at": " --url http://127.0.0.1:9000"},
    {"here": False, "file": " chat.yaml"},
]


def pasted(command: str) -> list[list[str]]:
    """The command lines of Headrace in it, cut at && and |, without what is written where."""
    parts = re.split(r"&&|\|", command)
    lines = [shlex.split(part.split(">")[0]) for part in parts]
    return [line[1:] for line in lines if line[:1] == ["headrace"]]


@pytest.mark.parametrize("where", WHERE, ids=["here", "fixed", "another file and port", "elsewhere"])
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
