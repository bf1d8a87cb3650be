"""The fake engine's own promises: its faults, its gate and its counts."""

import asyncio

import httptools
import pytest
from engine_client import Exchange, chat

from headrace.testing.engine import FAULTS, FakeEngine


class Client:
    """Sends requests to a fake engine, each on a connection of its own."""

    def __init__(self):
        self.opened = []

    async def sent(self, engine, *requests):
        exchanges = []
        for body in requests:
            exchanges.append(Exchange(*await self._streams(engine.address)))
            exchanges[-1].post("/v1/chat/completions", body)
        self.opened += exchanges
        return exchanges

    @staticmethod
    async def _streams(address):
        if address.startswith("unix:"):
            return await asyncio.open_unix_connection(address.removeprefix("unix:"))
        return await asyncio.open_connection(*address.removeprefix("http://").split(":"))

    async def outcome(self, engine, body):
        """(status or what broke, the answer so far)."""
        (exchange,) = await self.sent(engine, body)
        try:
            answer = await exchange.until()
            return answer.status, answer
        except (OSError, httptools.HttpParserError) as error:
            return type(error).__name__, exchange.answer


@pytest.fixture
async def client():
    client = Client()
    yield client
    for exchange in client.opened:
        exchange.close()
    await asyncio.sleep(0)  # transports close in the loop's next turn


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.002)


async def test_words_are_numbered_and_go_on_from_the_assistants_last(client):
    async with FakeEngine(tokens=5) as engine:
        _, answer = await client.outcome(engine, chat())
        assert answer.json["choices"][0]["message"]["content"] == "w0 w1 w2 w3 w4 "
        body = chat()
        body["messages"].append({"role": "assistant", "content": "w0 w1 w2 "})
        _, answer = await client.outcome(engine, body)
        assert answer.json["choices"][0]["message"]["content"] == "w3 w4 "
        assert answer.json["choices"][0]["finish_reason"] == "stop"


async def test_the_gate_holds_answers_and_the_slots_are_counted(client):
    async with FakeEngine(slots=2) as engine:
        engine.gate.clear()
        exchanges = await client.sent(engine, *[chat(stream=True)] * 5)
        await until(lambda: engine.waiting == 3)
        assert (engine.running, engine.started, engine.finished) == (2, 2, 0)
        assert all(not exchange.answer.body for exchange in exchanges)
        engine.gate.set()
        for exchange in exchanges:
            assert (await exchange.until()).events[-1] == "[DONE]"
            exchange.close()
        assert (engine.started, engine.finished, engine.max_running, engine.running) == (5, 5, 2, 0)


async def test_the_gate_can_hold_in_the_middle_and_silence_has_comments(client):
    async with FakeEngine(gate_after=3, ping_seconds=0.01) as engine:
        engine.gate.clear()
        (exchange,) = await client.sent(engine, chat(stream=True))
        answer = await exchange.until(seen=b"\n\n:\n\n")
        assert len(answer.events) == 1 + 3  # the role and three words
        exchange.close()
        await until(lambda: engine.aborted == 1)
        assert engine.running == 0


async def test_a_client_that_leaves_is_noticed_only_while_streaming(client):
    async with FakeEngine() as engine:
        engine.gate.clear()
        streaming, whole = await client.sent(engine, chat(stream=True), chat())
        await until(lambda: engine.running == 2)
        streaming.close()
        whole.close()
        await until(lambda: engine.running == 1)
        assert engine.aborted == 1
        engine.gate.set()
        await until(lambda: engine.finished == 1)


async def test_loading_and_keys(client):
    async with FakeEngine(key="s3cret") as engine:
        assert (await client.outcome(engine, chat()))[0] == 401
        engine.loading = True
        status, answer = await client.outcome(engine, chat())
        assert (status, answer.json["error"]["type"]) == (503, "unavailable_error")


@pytest.mark.parametrize(
    ("fault", "status", "done"),
    [
        ("die-before-head", "ConnectionResetError", False),
        ("die-mid-stream", 200, False),
        ("cut-without-done", 200, False),
        ("error-event", 200, False),
        ("500", 500, False),
        ("503", 503, False),
        ("garbage-head", "HttpParserError", False),
        ("slow-head", 200, True),
    ],
)
async def test_faults_are_what_they_say(client, fault, status, done):
    async with FakeEngine("http://127.0.0.1:0", slow_seconds=0.01) as engine:
        found, answer = await client.outcome(engine, chat(stream=True, user=f"fault:{fault}"))
        assert found == status
        assert answer.body.endswith(b"data: [DONE]\n\n") is done
        assert answer.complete is (fault in ("cut-without-done", "error-event", "500", "503", "slow-head"))
        assert (b'data: {"error"' in answer.body) is (fault == "error-event")
        await until(lambda: engine.running == 0)


async def test_a_hanging_request_holds_its_slot_until_its_client_leaves(client):
    async with FakeEngine() as engine:
        (exchange,) = await client.sent(engine, chat(user="fault:hang"))
        await until(lambda: engine.running == 1)
        exchange.close()
        await until(lambda: engine.running == 0)


async def test_a_reused_connection_can_be_reset(client):
    async with FakeEngine("http://127.0.0.1:0") as engine:
        (exchange,) = await client.sent(engine, chat(user="fault:reset-on-keepalive"))
        assert (await exchange.until()).status == 200
        exchange.answer.complete = False
        exchange.post("/v1/chat/completions", chat(user="fault:reset-on-keepalive"))
        with pytest.raises(ConnectionResetError):
            await exchange.until()
        exchange.close()


async def test_once_can_be_shared(client):
    once = set()
    async with FakeEngine(once=once) as first, FakeEngine(once=once) as second:
        assert (await client.outcome(first, chat(user="fault:503-once")))[0] == 503
        assert (await client.outcome(second, chat(user="fault:503-once")))[0] == 200


def test_every_fault_has_a_name_and_a_test():
    assert len(FAULTS) == len(set(FAULTS)) == 10
