"""What is promised of replicas: slots, keys, counts, starts and ends."""

import json
import os
import signal

import psutil
from deployment import PATIENT_SECONDS, Deployment, idle
from engine_client import Exchange, chat
from promises import promise

from headrace.engines.base import Reading
from headrace.targets.base import Replica

CHAT = "/v1/chat/completions"
ENDLESS = 420
"""Tokens, of a context of 512: seconds of work for every engine."""


@promise("generate")
async def requests_beyond_the_slots_wait(at: Deployment) -> None:
    """As many requests run as there are slots, says the engine's own page; more wait, are counted, and are served."""
    slots = at.planned("chat").slots
    sent = await at.streams(slots + 3, tokens=128)  # long enough to be looked at on a fast machine
    await at.load("chat", lambda load: (sum(load.running.values()), load.waiting) == (slots, 3))
    full = await at.reading("chat", lambda found: found.running == slots)
    assert full.waiting == 0
    assert [(await each.until(seconds=PATIENT_SECONDS)).events[-1] for each in sent] == ["[DONE]"] * len(sent)
    assert (await at.reading("chat", idle)).waiting == 0


@promise("generate")
async def a_client_that_leaves_frees_its_slot(at: Deployment) -> None:
    """A client that leaves is noticed at the engine, streaming or not: it computes no further."""
    for stream in (True, False):
        before = await at.reading("chat", idle)
        sent = await at.send("POST", CHAT, chat(stream=stream, max_tokens=ENDLESS, ignore_eos=True))
        await at.reading("chat", lambda found: found.running == 1)
        if stream:
            await sent.until(b"content", PATIENT_SECONDS)
        sent.close()
        after = await at.reading("chat", idle)
        assert after.tokens_out_total - before.tokens_out_total < ENDLESS
        assert sum((await at.load("chat")).running.values()) == 0


@promise("generate")
async def without_the_key_there_is_no_answer(at: Deployment) -> None:
    """Who comes to the replica itself without its key, or with a wrong one, gets 401; no list of processes shows the key."""
    found = await at.ready("chat")
    for key in (None, "wrong"):
        answer = await at.directly("chat", "POST", CHAT, json.dumps(chat()).encode(), key)
        assert answer.status == 401
    assert not any(found.endpoint.key in word for process in tree(found.pid) for word in process.cmdline())


@promise("generate")
async def nothing_listens_beyond_this_machine(at: Deployment) -> None:
    """A replica and its processes listen on Unix sockets and loopback only."""
    for model in at.plan.models:
        found = await at.ready(model.name)
        assert found.endpoint.address.startswith(("unix:", "http://127.0.0.1:"))
        for process in tree(found.pid):
            listening = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            assert all(address.ip in ("127.0.0.1", "::1") for address in listening), listening


@promise("generate")
async def ready_means_that_it_has_answered(at: Deployment) -> None:
    """A replica counts as ready once it has answered a first request: its page had counted tokens before clients came."""
    first = at.first["chat"]
    assert first
    assert first.tokens_out_total
    assert at.engine.warm(at.placement("chat"))


@promise("generate")
async def a_page_of_another_is_no_reading(at: Deployment) -> None:
    """What a metrics page does not say is unknown, which is not zero."""
    try:
        found = at.engine.read("# TYPE other_total counter\nother_total 1\n", "chat")
    except ValueError:
        return
    assert found == Reading()


@promise("generate")
async def what_cannot_be_loaded_says_why(at: Deployment) -> None:
    """An engine that cannot load its model ends, and says why in one line."""
    assert at.broken
    placement, words = at.broken
    found = await at.failing(placement)
    assert words in found.reason
    assert "; last line: " in found.reason or "; cause: " in found.reason
    assert found.exit_code not in (None, 0)


@promise("generate")
async def told_to_end_it_finishes_what_it_has(at: Deployment) -> None:
    """SIGTERM under 16 streams: those that it has begun are finished, none of the others hangs, and it is started again."""
    before, sent = await told_to_end(at, tokens=24)
    answers = [await each.until(seconds=PATIENT_SECONDS) for each in sent]
    finished = [answer for answer in answers if answer.status == 200]
    assert len(finished) >= at.planned("chat").slots
    assert [answer.events[-1] for answer in finished] == ["[DONE]"] * len(finished)
    assert not any("error" in event for answer in finished for event in answer.events[:-1])
    assert all(answer.json["error"]["code"] == "engine_stopping" for answer in answers if answer.status != 200)
    await at.ready("chat", but=before)


@promise("generate")
async def who_waits_is_served_by_its_next_life(at: Deployment) -> None:
    """SIGTERM to the only replica: requests that wait are served when it has been started again."""
    before, sent = await told_to_end(at, tokens=8)
    answers = [await each.until(seconds=PATIENT_SECONDS) for each in sent]
    assert [answer.events[-1] for answer in answers if answer.status == 200] == ["[DONE]"] * 16
    await at.ready("chat", but=before)


async def told_to_end(at: Deployment, tokens: int) -> tuple[Replica, list[Exchange]]:
    """The replica that got a SIGTERM when all its slots were taken, and the 16 streams that there were."""
    before, slots = await at.ready("chat"), at.planned("chat").slots
    sent = await at.streams(16, tokens)
    await at.load("chat", lambda load: (sum(load.running.values()), load.waiting) == (slots, 16 - slots))
    await at.reading("chat", lambda found: found.running)
    os.kill(before.pid, signal.SIGTERM)
    return before, sent


@promise("generate")
async def a_stream_outlives_its_engine_or_says_so(at: Deployment) -> None:
    """SIGKILL in a stream: the next life of the engine goes on with the text, where it can; else the stream ends with an error
    event and without [DONE]. The engine is started again and answers.
    """
    before = await at.ready("chat")
    (stream,) = await at.streams(1, tokens=ENDLESS)
    await stream.until(b"content", PATIENT_SECONDS)
    os.kill(before.pid, signal.SIGKILL)
    answer = await stream.until(seconds=PATIENT_SECONDS)
    if at.engine.continues in ("prefill", "final_message"):
        assert answer.events[-1] == "[DONE]"
        assert b'"error"' not in answer.body
    else:
        assert "error" in answer.events[-1]
        assert b"[DONE]" not in answer.body
    await at.ready("chat", but=before)
    assert (await at.chat(max_tokens=2)).status == 200


def tree(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
