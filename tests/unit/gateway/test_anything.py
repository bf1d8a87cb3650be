"""Promise 1 under everything at once: requests end in an answer, a clear error or their client leaving; slots are freed."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .clients import Answer, Ended, asking, request
from .engines import DONE, EVENTS, LAST, STREAM, answers, chunk, eventually, says, streams_and_holds, whole

FAULTS = {
    "none": answers,
    "dies before": says(then="close"),
    "is reset": says(then="reset"),
    "dies in the head": says(b"HTTP/1.1 200", then="close"),
    "dies in the middle": says(STREAM + chunk(EVENTS[0]), then="close"),
    "dies in a chunk": says(STREAM + chunk(EVENTS[0]) + chunk(EVENTS[1])[:20], then="reset"),
    "forgets done": says(STREAM + chunk(EVENTS[0]) + LAST),
    "is busy": says(whole(b"{}", b"503 Busy")),
    "refuses": says(whole(b"{}", b"400 Bad Request")),
    "breaks": says(b"\x00\xff\r\n\r\n"),
    "is slow": streams_and_holds(),
}
TOKEN = b'data: {"text_output":"H"}\n\n'
TRITONS = FAULTS | {
    "none": says(STREAM + chunk(TOKEN) + chunk(TOKEN) + LAST),
    "dies in the middle": says(STREAM + chunk(TOKEN), then="close"),
    "dies in a chunk": says(STREAM + chunk(TOKEN) + chunk(TOKEN)[:20], then="reset"),
    "forgets done": says(STREAM + chunk(TOKEN) + chunk(b'data: {"error":"boom"}\n\n') + LAST),
    "is busy": says(STREAM + chunk(b'data: {"error":"Exceeds maximum queue size"}\n\n') + LAST),
    "refuses": says(whole(b'{"error":"no"}')),
    "breaks": says(STREAM + chunk(b"data: {no json}\n\n") + LAST),
}
"""The same of an engine that speaks Triton's generate."""
TEMPLATE = '{"seed":{{ seed }},"faults":{{ faults | tojson }}}'
Ask = dict[str, object]
asks = st.fixed_dictionaries(
    {
        "faults": st.lists(st.sampled_from([*FAULTS, "none", "none"]), min_size=1, max_size=3),
        "stream": st.booleans(),
        "leaves": st.sampled_from(["never", "never", "never", "at once", "after a byte"]),
        "version": st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
        "pipelined": st.integers(1, 3),
    }
)


def asked_of(asked) -> Ask:
    return json.loads(asked.json["text_input"]) if "text_input" in asked.json else asked.json


async def as_asked(asked) -> None:
    """The n-th try of a request meets the n-th of its faults; the last one stays."""
    wanted = asked_of(asked)
    tried = sum(wanted["seed"] == asked_of(other)["seed"] for engine in asked.line.engine.world for other in engine.asked)
    await asyncio.sleep(0)
    faults = TRITONS if "text_input" in asked.json else FAULTS
    await faults[wanted["faults"][min(tried, len(wanted["faults"])) - 1]](asked)


def ends_well(answer: Answer) -> bool:
    """Whether a client can tell what it got. Some of the faults are streams that nobody asked for."""
    if answer.status != 200:
        return answer.whole and answer.error["source"] in ("gateway", "engine")
    if answer.headers["content-type"] != "text/event-stream":
        return not answer.whole or bool(answer.json["choices"])
    done, error = DONE in answer.body, b'data: {"error"' in answer.body
    framed = "transfer-encoding" in answer.headers
    return done != error and (answer.whole == done or not framed)


@pytest.mark.parametrize("endpoint", [{}, {"folds": True}, {"speaks": "generate", "template": TEMPLATE}], ids=str)
async def test_whatever_happens_every_request_ends_and_every_slot_is_free(open_world, monkeypatch, endpoint):
    monkeypatch.setattr("headrace.gateway.exchange.FIRST_BYTE_SECONDS", 0.1)
    monkeypatch.setattr("headrace.gateway.exchange.GAP_SECONDS", 0.1)
    world = await open_world(queue=6)
    engines = [await world.engine(as_asked, name=f"chat-{number}", slots=2, **endpoint) for number in (1, 2)]
    for engine in engines:
        engine.world = engines
    seeds = iter(range(10**9))

    async def one(ask: Ask) -> None:
        client = await world.client()
        told = [{"seed": next(seeds), "faults": ask["faults"]} for _ in range(ask["pipelined"])]
        bodies = [asking(stream=ask["stream"], chat_template_kwargs=each, **each) for each in told]
        await client.send(b"".join(request(body, version=ask["version"]) for body in bodies))
        try:
            if ask["leaves"] == "after a byte":
                await client.more()
            elif ask["leaves"] == "never":
                for _ in bodies:
                    answer = await client.answer()
                    assert ends_well(answer), (ask, answer)
                    if not answer.whole or answer.headers.get("connection") == "close":
                        await client.gone()
                        break
        except Ended:
            assert ask["leaves"] != "never" or ask["version"] == "HTTP/1.0", "silence"
        client.close()
        world.clients.remove(client)

    async def all_at_once(many: list[Ask]) -> None:
        before = sum(world.counted.values())
        for engine in engines:
            engine.asked.clear()
        await asyncio.gather(*map(one, many))
        await world.rests()
        await eventually(lambda: not any(engine.running for engine in engines), "the engines are free")
        assert sum(world.counted.values()) - before <= sum(ask["pipelined"] for ask in many)
        assert not world.complaints
        assert world.model.held_bytes == 0

    loop = asyncio.get_running_loop()

    @settings(max_examples=25, deadline=None)
    @given(st.lists(asks, min_size=1, max_size=10))
    def examples(many: list[Ask]) -> None:
        asyncio.run_coroutine_threadsafe(all_at_once(many), loop).result(60)

    await asyncio.to_thread(examples)
    last = {"seed": -1, "faults": ["none"]}
    assert json.loads((await world.ask(request(asking(chat_template_kwargs=last, **last)))).body)["choices"]
