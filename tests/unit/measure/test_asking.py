"""A command line and a program ask for the same: text or numbers, and the files that are named."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.measure import add
from headrace.errors import UsageError
from headrace.measure.asking import Options, asked
from headrace.measure.base import Load, Slo
from headrace.measure.wish import Wish

TRACE = "timestamp,input_tokens,output_tokens\n0,200,40\n1,300,50\n"
SAME: list[tuple[Options, Options]] = [
    ({"concurrency": [1, 8]}, {"concurrency": "1,8"}),
    ({"concurrency": 4, "rate": 2.5}, {"concurrency": "4", "rate": "2.5"}),
    ({"slo": "ttft=1s", "share": 0.9}, {"slo": "ttft=1s", "share": "90%"}),
    ({"prompt": 4096, "shared_prefix": 256}, {"prompt": "4k", "shared_prefix": "256"}),
    ({"output": 20, "context": 8192}, {"output": "20", "context": "8k"}),
    ({"duration": 60, "warmup": 0, "stall": 2.5}, {"duration": "1m", "warmup": "0s", "stall": "2500ms"}),
    ({"requests": None, "trace": None}, {}),
]  # fmt: skip


def wish(options: Options) -> Wish:
    return asked("http://127.0.0.1:1/v1", "chat", "", options)


@pytest.mark.parametrize(("numbers", "text"), SAME)
def test_numbers_and_text_ask_for_the_same(numbers: Options, text: Options) -> None:
    assert wish(numbers) == wish(text)


def test_what_is_left_out_is_as_in_a_wish() -> None:
    assert wish({}) == Wish(url="http://127.0.0.1:1/v1", model="chat")


def test_every_option_of_the_command_is_one_here_and_none_has_a_default_of_its_own() -> None:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(), lambda options: None, lambda options: None)  # type: ignore[arg-type,return-value]
    found: dict[str, Any] = vars(parser.parse_args(["bench"]))
    elsewhere = {"command", "model", "url", "ca", "key", "json", "html", "compare", "strict"}
    assert set(Options.__annotations__) == set(found) - elsewhere
    assert asked(found["url"], None, "", {name: found[name] for name in Options.__annotations__}) == Wish(url=found["url"])  # type: ignore[misc]


def test_files_are_read(tmp_path: Path) -> None:
    trace, prompts = tmp_path / "trace.csv", tmp_path / "mine.jsonl"
    trace.write_text(TRACE)
    prompts.write_text('{"prompt": "Hello", "max_tokens": 5}\n')
    alone = wish({"trace": trace, "speed": 2})
    assert (alone.loads[0].kind, alone.loads[0].level, alone.duration, alone.warmup) == ("trace", 2, 0, 0)
    assert wish({"trace": trace, "speed": "2x"}) == alone
    beside = wish({"trace": str(trace), "concurrency": 1, "duration": "9s", "warmup": "1s"})
    assert ([load.kind for load in beside.loads], beside.duration, beside.warmup) == (["closed", "trace"], 9, 1)
    assert wish({"lengths": trace}).lengths == alone.loads[0].trace
    assert wish({"messages": prompts}).messages == (("Hello", 5),)


def test_all_of_it_together() -> None:
    found = wish({"rate": 3, "arrivals": "constant", "find_rate": True, "slo": "tpot=50ms", "api": "completions", "seed": 7})
    assert found.loads == (Load("open", 3, "constant"),)
    assert (found.find_rate, found.process, found.slo, found.api, found.seed) == (
        True, "constant", Slo(tpot=0.05), "completions", 7
    )  # fmt: skip


IGNORED: list[tuple[Options, str]] = [
    # options that would change nothing: without another, …
    ({"share": 0.9}, "--share says nothing without --slo"),
    ({"speed": 2}, "--speed says nothing without --trace"),
    ({"arrivals": "constant", "concurrency": 4}, "--arrivals is about --rate"),
    ({"find_rate": True, "rate": [2, 4], "slo": "ttft=1s"}, "--find-rate begins at one rate"),
    # … or because another takes their place
    ({"messages": "mine.jsonl", "lengths": "trace.csv"}, "--messages takes the place of --lengths"),
    ({"messages": "mine.jsonl", "prompt": 100}, "--messages takes the place of --prompt"),
    ({"messages": "mine.jsonl", "shared_prefix": 100}, "--messages takes the place of --shared-prefix"),
    ({"messages": "mine.jsonl", "context": "4k"}, "--messages takes the place of --context"),
    ({"lengths": "trace.csv", "prompt": 100}, "--lengths takes the place of --prompt"),
    ({"lengths": "trace.csv", "output": 100}, "--lengths takes the place of --output"),
    ({"trace": "trace.csv", "messages": "mine.jsonl"}, "--trace takes the place of --messages"),
    ({"trace": "trace.csv", "lengths": "trace.csv"}, "--trace takes the place of --lengths"),
    ({"trace": "trace.csv", "prompt": 100}, "--trace takes the place of --prompt"),
    ({"trace": "trace.csv", "output": 100}, "--trace takes the place of --output"),
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trace.csv").write_text(TRACE)
    Path("mine.jsonl").write_text('{"prompt": "Hello"}\n')


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("options", "words"), IGNORED, ids=[words for _, words in IGNORED])
def test_what_would_be_ignored_is_a_mistake(options: Options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        wish(options)


BESIDE: list[Options] = [
    # each is for one of the loads, or for all
    {"trace": "trace.csv", "concurrency": 2, "prompt": 100, "output": 20},
    {"trace": "trace.csv", "rate": 2, "messages": "mine.jsonl", "shared_prefix": 10, "context": "4k"},
    {"trace": "trace.csv", "shared_prefix": 10, "context": "4k"},
    {"messages": "mine.jsonl", "output": 100},  # of the prompts that say nothing
    {"lengths": "trace.csv", "shared_prefix": 10},
    {"find_rate": True, "slo": "ttft=1s", "arrivals": "constant"},
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("options", BESIDE, ids=[" ".join(options) for options in BESIDE])
def test_what_is_about_something_is_none(options: Options) -> None:
    wish(options)


WRONG: list[tuple[Options, str]] = [
    ({"prompt": 0}, "--prompt"),
    ({"shared_prefix": "many"}, "--shared-prefix"),
    ({"duration": -1.0}, "--duration"),
    ({"share": 1.5}, "--share"),
    ({"requests": 0}, "--requests"),
    ({"concurrency": [0]}, "--concurrency"),
    ({"find_rate": True, "concurrency": [8], "slo": "ttft=1s"}, "--find-rate"),
    ({"trace": "none.csv"}, "none.csv cannot be read"),
    ({"messages": "none.jsonl"}, "none.jsonl cannot be read"),
    ({"users": 3}, "no option users. It has api, arrivals, concurrency"),  # type: ignore[typeddict-unknown-key]
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_mistakes_name_the_option(options: Options, words: str) -> None:
    if "share" in options:
        options = {**options, "slo": "ttft=1s"}
    with pytest.raises(UsageError, match=words):
        wish(options)
