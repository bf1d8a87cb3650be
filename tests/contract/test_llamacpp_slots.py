"""What routing believes of llama.cpp's slots is what llama.cpp says that it found in them."""

import random
import tempfile
from pathlib import Path

import pytest
from engine_client import Server

from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.gateway.caches import Slots
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget

pytestmark = pytest.mark.real

BLOCKS = [" red red red red", " blue blue blue blue", " green green green green"]
SLOTS, PROMPTS = 3, 16


@pytest.fixture
async def server(weights):
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        target = LocalTarget(engines(), Path(folder))
        server = Server(target)
        placement = Placement("chat", "llamacpp", "generate", weights("generate"), 256, SLOTS, 1, 0)
        await target.apply([Start("chat-1", "chat", placement, SLOTS, "a test wants it")])
        await server.replica(lambda replica: replica.state is State.READY)
        yield server
        await server.close()


async def usage(server, words):
    """(tokens of the prompt, those that were cached)"""
    body = {"model": "chat", "prompt": "".join(BLOCKS[word] for word in words), "max_tokens": 1}
    counted = (await server.ask("POST", "/v1/completions", body)).json["usage"]
    return counted["prompt_tokens"], counted["prompt_tokens_details"]["cached_tokens"]


async def test_each_prompt_finds_what_routing_believes(server):
    tokens, _ = await usage(server, [0])
    rng, slots, seen = random.Random(4), Slots(SLOTS), []
    slots.most = 64
    slots.left(slots.sent(chain([0]))[0])
    for _ in range(PROMPTS):
        words = [rng.randrange(3) for _ in range(rng.randrange(1, 10))]  # one of them is more than a tenth
        believed = slots.found(chain(words))
        slots.left(slots.sent(chain(words))[0])
        _, cached = await usage(server, words)
        seen.append((round(cached / tokens), believed))  # of a prompt that is there whole the last token is read again
    assert [found for found, _ in seen] == [believed for _, believed in seen]
    assert len({found for found, _ in seen}) > 2, "it tells something"


def chain(words):
    return tuple(hash(tuple(words[: n + 1])) for n in range(len(words)))
