"""The cache of a replica, layer by layer: what grows with the context, what stops at a window, what is there once per request."""

import pytest

from headrace.facts.base import CacheGroup, ModelFacts
from headrace.plan.memory import cache_bytes


def facts(*groups: CacheGroup, per_token: int = 0) -> ModelFacts:
    return ModelFacts("x", "gguf", 1, 1, 4, 64, 4, 2, 16, per_token, 8192, "F16", 100, True, False, cache=groups)


FULL = CacheGroup("full", 2, 2, 32)
WINDOW = CacheGroup("window", 3, 2, 32, window=1024)
STATE = CacheGroup("state", 4, 1, 1000)


@pytest.mark.parametrize(
    ("groups", "context", "slots", "kind", "bytes_"),
    [
        ((FULL,), 4096, 1, "f16", 2 * 2 * 32 * 4096 * 2),  # layers x heads x numbers x tokens x 2 bytes
        ((FULL,), 4096, 4, "f16", 4 * 2 * 2 * 32 * 4096 * 2),  # each slot has its own
        ((FULL,), 4096, 1, "q8_0", 2 * 2 * 32 * 4096 * 34 // 32),  # 34 bytes for 32 numbers
        ((WINDOW,), 4096, 1, "f16", 3 * 2 * 32 * (1024 + 512) * 2),  # the window and one batch, whatever the context
        ((WINDOW,), 800, 1, "f16", 3 * 2 * 32 * 800 * 2),  # never more than the context
        ((STATE,), 4096, 2, "q4_0", 2 * 4 * 1000 * 2),  # once per request, and not in the cache's format
        ((FULL, STATE), 1024, 1, "f16", 2 * 2 * 32 * 1024 * 2 + 4 * 1000 * 2),
        ((CacheGroup("latent", 2, 1, 576),), 1024, 1, "f16", 2 * 576 * 1024 * 2),  # one compressed vector
    ],
)
def test_each_kind_of_layer_keeps_what_it_keeps(
    groups: tuple[CacheGroup, ...], context: int, slots: int, kind: str, bytes_: int
) -> None:
    assert cache_bytes(facts(*groups), context, slots, kind) == bytes_


def test_facts_without_layers_are_taken_by_their_sum() -> None:
    assert cache_bytes(facts(per_token=100), 1000, 2, "f16") == 200_000
