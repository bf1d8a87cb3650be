"""Batching: who is in the pipeline when, what comes out, and what a broken step does."""

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from headrace.engines import own
from headrace.runners import openvino_pipeline
from headrace.runners.openai import Refused
from headrace.runners.openvino_pipeline import Batching
from headrace.runners.openvino_request import Prompt, Settings
from headrace.runners.serving import Counts

LETTERS = [bytes([byte]) for byte in range(256)]


@dataclass
class Handle:
    """A request in the fake pipeline: it says its prompt again and again, a letter a step."""

    prompt: list
    config: SimpleNamespace
    status: str = "RUNNING"
    said: int = 0
    unread: list = field(default_factory=list)

    def cancel(self):
        self.status = "CANCEL"

    def can_read(self):
        return bool(self.unread)

    def read(self):
        reason = "LENGTH" if self.status == "FINISHED" else "NONE"
        output = SimpleNamespace(generated_ids=self.unread, finish_reason=SimpleNamespace(name=reason))
        self.unread = []
        return {0: output}

    def get_status(self):
        return SimpleNamespace(name=self.status)


class Pipe:
    """A small thing that behaves as OpenVINO's pipeline does, with what it saw."""

    def __init__(self):
        self.handles, self.most, self.order = {}, 0, []
        self.breaks = False

    def get_config(self):
        return SimpleNamespace()

    def add_request(self, number, tokens, config):
        assert number not in self.handles, "an id is used once"
        if config.max_new_tokens == 13:
            raise RuntimeError("here:1:\n13 is unlucky\n")
        self.handles[number] = Handle(tokens, config)
        self.order.append(bytes(tokens).decode())
        return self.handles[number]

    def running(self):
        return [handle for handle in self.handles.values() if handle.status == "RUNNING"]

    def has_non_finished_requests(self):
        return bool(self.running())

    def step(self):
        if self.breaks or any(handle.config.grammar == "bad" and not handle.said for handle in self.running()):
            raise RuntimeError("there:2:\nit broke\n")
        self.most = max(self.most, len(self.running()))
        for handle in self.running():
            handle.unread.append(handle.prompt[handle.said % len(handle.prompt)])
            handle.said += 1
            if handle.said == handle.config.max_new_tokens:
                handle.status = "FINISHED"


@pytest.fixture
def pipe():
    return Pipe()


@pytest.fixture
def counts():
    return Counts()


@pytest.fixture
def batching(pipe, counts):
    return Batching(pipe, 2, 8, LETTERS, counts, list)


@pytest.fixture(autouse=True)
def grammars(monkeypatch):
    """A schema is made a grammar without OpenVINO, which takes a second to import."""
    real = openvino_pipeline.configured

    def configured(config, settings):
        config.grammar = settings.schema
        return real(config, replace(settings, schema=None))

    monkeypatch.setattr(openvino_pipeline, "configured", configured)


def prompt(text, tokens=4, **more):
    return Prompt(tuple(text.encode()), Settings(tokens, **more))


async def said(batching, *prompts):
    """The texts of all answers, and why each ended."""
    texts, reasons = [""] * len(prompts), [None] * len(prompts)
    async for piece in batching.pieces(prompts):
        texts[piece.choice] += piece.text
        reasons[piece.choice] = piece.finish or reasons[piece.choice]
    return texts, reasons


async def test_an_answer_comes_in_pieces_and_ends(batching):
    assert await said(batching, prompt("abc")) == (["abca"], ["length"])


async def test_never_more_than_the_slots_are_in_the_pipeline_and_the_first_come_first(batching, pipe):
    answers = await asyncio.gather(*(said(batching, prompt(letter, 3)) for letter in "abcdef"))
    assert [texts for texts, _ in answers] == [[letter * 3] for letter in "abcdef"]
    assert pipe.most == 2
    assert pipe.order == list("abcdef")


async def test_choices_of_one_request_may_be_more_than_the_slots(batching, pipe):
    texts, _ = await said(batching, *(prompt(letter, 2) for letter in "abc"))
    assert texts == ["aa", "bb", "cc"]
    assert pipe.most == 2


async def test_a_stop_string_ends_it_and_frees_its_slot(batching, pipe):
    assert await said(batching, prompt("abc", 1000, stops=("ca",))) == (["ab"], ["stop"])
    await until(lambda: not pipe.running())


async def test_who_leaves_frees_a_slot_and_who_waits_leaves_the_queue(batching, pipe, counts):
    streams = [batching.pieces([prompt(letter, 10_000)]) for letter in "abc"]
    firsts = [asyncio.create_task(anext(stream)) for stream in streams]
    await asyncio.wait(firsts[:2])
    assert page(counts)[:2] == (2, 1)
    firsts[2].cancel()
    await asyncio.wait([firsts[2]])
    assert page(counts)[:2] == (2, 0)
    for stream in streams[:2]:
        await stream.aclose()
    await until(lambda: not pipe.running() and page(counts)[:2] == (0, 0))
    assert pipe.order == ["a", "b"]


async def test_the_page_counts_as_it_goes(batching, counts):
    stream = batching.pieces([prompt("a" * 33, 10_000)])
    await anext(stream)
    running, _, tokens_in, tokens_out, usage = page(counts)
    assert (running, tokens_in) == (1, 33)
    assert tokens_out >= 1
    assert usage == 2 / 8  # 33 tokens and some take two blocks of the eight
    await stream.aclose()


async def test_what_the_pipeline_refuses_is_a_400_and_harms_nobody_else(batching):
    good, bad = await asyncio.gather(said(batching, prompt("a")), said(batching, prompt("b", 13)), return_exceptions=True)
    assert good == (["aaaa"], ["length"])
    assert isinstance(bad, Refused)
    assert (bad.status, str(bad)) == (400, "OpenVINO refused the request: 13 is unlucky")


async def test_a_bad_grammar_fails_its_own_request_and_the_others_go_on_where_they_were(batching, pipe):
    other = asyncio.create_task(said(batching, prompt("abc", 10)))
    await until(lambda: any(handle.said > 2 for handle in pipe.handles.values()))
    with pytest.raises(Refused) as refused:
        await said(batching, prompt("x", 4, schema="bad"))
    assert (refused.value.status, refused.value.code) == (400, "unsupported_schema")
    assert batching.broken is None
    texts, reasons = await other
    begun_again = [text for text in pipe.order if text.startswith("abc") and text != "abc"]
    assert len(begun_again) == 1
    assert (len(texts[0]), reasons) == (10, ["length"])


async def test_grammars_are_made_one_at_a_time(batching, pipe):
    good, bad = prompt("a", 4, schema="good"), prompt("b", 4, schema="bad")
    answers = await asyncio.gather(said(batching, bad), said(batching, good), return_exceptions=True)
    assert isinstance(answers[0], Refused)
    assert answers[1] == (["aaaa"], ["length"])


async def test_an_answer_whose_grammar_is_half_used_cannot_go_on(batching, pipe):
    half = asyncio.create_task(said(batching, prompt("a", 10_000, schema="good")))
    await until(lambda: pipe.running() and pipe.running()[0].said)
    answers = await asyncio.gather(said(batching, prompt("b", 4, schema="bad")), half, return_exceptions=True)
    assert [answer.status for answer in answers] == [400, 500]


async def test_a_step_that_breaks_fails_all_that_run_or_wait_or_come(batching, pipe):
    told = []
    batching.broke = lambda: told.append(batching.broken)
    waiting = [asyncio.create_task(said(batching, prompt(letter, 10_000))) for letter in "abc"]
    await until(lambda: len(pipe.running()) == 2)
    pipe.breaks = True
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(Refused) as late:
        await said(batching, prompt("d"))
    assert [(error.status, str(error)) for error in (*failed, late.value)] == [(500, "The engine broke: it broke")] * 4
    assert told == ["it broke"]


def page(counts):
    found = own.read(counts.page().decode(), "chat")
    return found.running, found.waiting, found.tokens_in_total, found.tokens_out_total, found.cache_usage


async def until(true):
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0)
