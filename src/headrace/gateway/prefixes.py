"""What each replica should have in its prefix cache: an approximate index, fed by what was sent there.

A prompt is a chain of hashes over blocks of its bytes as they came in JSON: each hash covers all before it, so that equal ones
are equal prefixes. Nobody asks an engine: what it evicted earlier than assumed is a prompt that is read again, no more.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from headrace.gateway.caches import NO_SLOT, Blocks, Chain, Slots, depth
from headrace.gateway.openai import Ask

BLOCK_BYTES = 512
"""Bytes that must be equal to count as shared: about 128 tokens of English."""
MOST_BLOCKS = 1024
"""Blocks of one prompt that are looked at: 512 KiB, about 400 µs of hashing. What follows is taken for new."""
LEAST_KEPT, MOST_KEPT = 64, 16_384
"""Blocks remembered of one replica, whatever its context and slots would hold."""
MOST_KEPT_OF_ALL = 262_144
"""Blocks remembered of all replicas of a model: at most about 100 MB."""
_UNKNOWN_KEPT = 4_096
_TOKENS_PER_BLOCK = BLOCK_BYTES // 4
_HOLDERS = 4
_TEXTS = ("messages", "prompt", "input")
_BEFORE = ("tools", "system", "instructions")


class Prompt(NamedTuple):
    """A request as routing sees it: its prompt's blocks, and the adapter that only some replicas know."""

    chain: Chain = ()
    adapter: str = ""


SHORT = Prompt()
"""One that shares nothing worth a look."""


def chain_of(ask: Ask) -> Chain:
    """The blocks of a request's prompt; none when it is shorter than one. Model, adapter and tools are part of each."""
    fields = ask.fields
    for name in _TEXTS:
        if (raw := fields.get(name)) is not None:
            break
    else:
        return ()
    if len(raw) < BLOCK_BYTES:
        return ()
    seed = hash((ask.model, *[hash(bytes(fields[name])) for name in _BEFORE if name in fields]))
    return chained(seed, bytes(memoryview(raw)[: MOST_BLOCKS * BLOCK_BYTES]))


def chained(seed: int, text: bytes) -> Chain:
    """Hashes of its whole blocks, each with all before it. Python's own hash: a keyed SipHash, 0.8 µs per KiB."""
    chain: list[int] = []
    for end in range(BLOCK_BYTES, len(text) + 1, BLOCK_BYTES):
        seed = hash((seed, text[end - BLOCK_BYTES : end]))
        chain.append(seed)
    return tuple(chain)


def kept(slots: int, context: int | None) -> int:
    """Blocks that a replica should have room for: as many tokens as its slots hold."""
    blocks = _UNKNOWN_KEPT if context is None else slots * context // _TOKENS_PER_BLOCK
    return min(MOST_KEPT, max(LEAST_KEPT, blocks))


class Prefixes:
    """Which replica was sent which blocks, and has them still, as its engine keeps them (caches.py)."""

    __slots__ = ("_caches", "_holders")

    def __init__(self) -> None:
        self._caches: dict[str, Blocks | Slots] = {}
        self._holders: dict[int, tuple[str, ...]] = {}  # the newest few that have a block

    def __len__(self) -> int:
        return sum(len(cache.blocks) for cache in self._caches.values())

    def resized(self, kept: Mapping[str, int], slots: Mapping[str, int] | None = None) -> None:
        """The replicas that there are, and how many blocks each keeps; `slots` of those that keep a prompt in each. Others are
        forgotten.
        """
        for replica in [replica for replica in self._caches if replica not in kept]:
            self.forget(replica)
            del self._caches[replica]
        most = max(1, MOST_KEPT_OF_ALL // max(1, len(kept)))
        for replica, blocks in kept.items():
            self._resized(replica, min(blocks, most), slots.get(replica) if slots else None)

    def _resized(self, replica: str, most: int, count: int | None) -> None:
        cache = self._caches.get(replica)
        if cache is None or cache.count != count:
            self.forget(replica)
            cache = self._caches[replica] = Blocks() if count is None else Slots(count)
        cache.most = most if count is None else most // max(1, count)
        self._gone(replica, cache.trimmed())

    def forget(self, replica: str) -> None:
        """Its cache is empty."""
        if (cache := self._caches.get(replica)) is not None:
            self._gone(replica, cache.blocks)
            cache.clear()

    def matched(self, replica: str, chain: Chain) -> int:
        """How many of the first blocks it should have, for a prompt that is sent now."""
        cache = self._caches.get(replica)
        if cache is None or chain[0] not in cache.blocks:
            return 0
        return cache.found(chain)

    def holders(self, chain: Chain) -> tuple[str, ...]:
        """A few replicas that should have the most of it; none when nobody has any."""
        found = depth(chain, self._holders)
        return self._holders[chain[found - 1]] if found else ()

    def sent(self, replica: str, chain: Chain) -> int:
        """The replica reads this prompt now; the slot that it takes, for `left`. One that is not known keeps nothing."""
        cache = self._caches.get(replica)
        if cache is None:
            return NO_SLOT
        slot, came, gone = cache.sent(chain)
        self._came(replica, came)
        self._gone(replica, gone)
        return slot

    def left(self, replica: str, slot: int) -> None:
        """The request that took the slot is over."""
        if (cache := self._caches.get(replica)) is not None:
            self._came(replica, cache.left(slot))

    def _came(self, replica: str, blocks: Iterable[int]) -> None:
        holders = self._holders
        for block in blocks:
            held = holders.get(block)
            holders[block] = (replica,) if held is None else (replica, *held)[:_HOLDERS]

    def _gone(self, replica: str, blocks: Iterable[int]) -> None:
        holders = self._holders
        for block in blocks:
            held = holders.get(block, ())
            others = tuple(holder for holder in held if holder != replica) if len(held) > 1 else ()
            if others:
                holders[block] = others
            elif replica in held:
                del holders[block]
