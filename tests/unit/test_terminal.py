"""What the terminal shows while something runs: rates, what is left, and nothing of it when it shall be quiet."""

import argparse
import io
from collections.abc import Iterator

import pytest

from headrace.cli import parser
from headrace.measure.progress import Progress
from headrace.terminal import Terminal, agreed, can_ask, is_quiet, quiet

MIB = 2**20


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("headrace.terminal.time.monotonic", lambda: clock.now)
    return clock


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_step_tells_its_rate_and_what_is_left(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    for second in range(0, 21, 5):
        clock.now = second
        terminal.progress("fetching", 50 * MIB + second * 2 * MIB, 150 * MIB)  # 50 MiB were there from an earlier run
    first, *_, last = stream.getvalue().splitlines()
    assert first == "fetching: 50 MiB of 150 MiB (33 %)"
    assert last == "fetching: 90 MiB of 150 MiB (60 %), 2 MiB/s, 30s left"


def test_the_rate_is_that_of_late_and_not_the_mean_of_all(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    done = 0
    for second in range(0, 120, 5):
        clock.now = second
        terminal.progress("fetching", done, 1000 * MIB)
        done += (50 if second < 60 else 5) * MIB
    assert ", 1 MiB/s, " in stream.getvalue().splitlines()[-1]


def test_of_an_unknown_size_only_the_rate_is_told(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.progress("fetching", MIB, None)
    clock.now = 10.0
    terminal.progress("fetching", 11 * MIB, None)
    assert stream.getvalue().splitlines()[-1] == "fetching: 11 MiB, 1 MiB/s"


def test_where_nothing_moves_there_is_no_rate(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    for second in (0.0, 10.0, 30.0):
        clock.now = second
        terminal.progress("fetching", MIB, 2 * MIB)
    assert "/s" not in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Tty])
def test_quiet_leaves_out_progress_and_keeps_what_is_said(clock: Clock, kind: type[io.StringIO]) -> None:
    stream, bench = kind(), kind()
    with quiet():
        terminal = Terminal(stream)
        terminal.progress("fetching", 1, 2)
        terminal.say("It is there.")
        progress = Progress(bench)
        progress.say("1 at once")
        progress.end()
    assert stream.getvalue() == "It is there.\n"
    assert bench.getvalue() == ""
    assert not is_quiet()


def leaves(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that can be run, nested ones by both words."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for word, command in action.choices.items():
            yield from leaves(command, f"{name} {word}".strip())
    if not below:
        yield name, parser


@pytest.mark.parametrize("name", [name for name, _ in leaves(parser())])
def test_every_command_can_be_quiet(name: str) -> None:
    options = dict(leaves(parser()))[name]._option_string_actions
    assert "-q" in options
    assert options["-q"] is options["--quiet"]


def test_quiet_is_understood_before_and_after_the_second_word() -> None:
    for line in (["key", "list"], ["key", "-q", "list"], ["key", "list", "-q"], ["key", "-q", "list", "--quiet"]):
        assert parser().parse_args(line).quiet == (len(line) > 2)


ASKED = [
    # what is typed, who is there (standard input, standard error), whether that is a yes
    ("y\n", (True, True), True),
    (" YES \n", (True, True), True),
    ("yes, please\n", (True, True), False),
    ("\n", (True, True), False),  # Enter: the answer that changes nothing
    ("", (True, True), False),  # Ctrl-D
    ("y\n", (False, True), False),  # `yes | headrace …`: --yes says it, a pipe does not
    ("y\n", (True, False), False),  # nobody would see the question
]


@pytest.mark.parametrize(("typed", "there", "yes"), ASKED)
def test_a_question_is_asked_of_who_is_there_and_leaves_standard_output_alone(
    typed: str, there: tuple[bool, bool], yes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin, stderr = (Tty(typed) if there[0] else io.StringIO(typed), Tty() if there[1] else io.StringIO())
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stderr", stderr)
    assert can_ask() is all(there)
    assert agreed("Go on?") is yes
    assert stderr.getvalue() == ("Go on? [y/N] " if all(there) else "")
    assert capsys.readouterr().out == ""
