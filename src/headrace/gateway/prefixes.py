"""What each replica should have in its prefix cache: an approximate index, fed by what was sent there.

A prompt is a chain of hashes over blocks of its bytes as they came in JSON: each hash covers all before it, so that equal ones
are equal prefixes. Nobody asks an engine: what it evicted earlier than assumed is a prompt that is read again, no more.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

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

    chain: tuple[int, ...] = ()
    adapter: str = ""


SHORT = Prompt()
"""One that shares nothing worth a look."""


def chain_of(ask: Ask) -> tuple[int, ...]:
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


def chained(seed: int, text: bytes) -> tuple[int, ...]:
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
    """Which replica was sent which blocks, the most recent ones of each.

    A block is used no earlier than all that follow it, and forgotten no earlier: who has a block has all before it.
    """

    __slots__ = ("_blocks", "_holders", "_kept")

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}
        self._blocks: dict[str, OrderedDict[int, None]] = {}  # by replica, the oldest first
        self._holders: dict[int, tuple[str, ...]] = {}  # the newest few that have a block

    def __len__(self) -> int:
        return sum(map(len, self._blocks.values()))

    def resized(self, kept: Mapping[str, int]) -> None:
        """The replicas that there are, and how many blocks each keeps; others are forgotten."""
        for replica in [replica for replica in self._blocks if replica not in kept]:
            self.forget(replica)
        most = max(1, MOST_KEPT_OF_ALL // max(1, len(kept)))
        self._kept = {replica: min(blocks, most) for replica, blocks in kept.items()}
        for replica, blocks in self._blocks.items():
            self._trim(replica, blocks)

    def forget(self, replica: str) -> None:
        """Its cache is empty."""
        for block in self._blocks.pop(replica, ()):
            self._drop(replica, block)

    def matched(self, replica: str, chain: tuple[int, ...]) -> int:
        """How many of the first blocks it should have."""
        blocks = self._blocks.get(replica)
        if not blocks or chain[0] not in blocks:
            return 0
        return _depth(chain, blocks)

    def holders(self, chain: tuple[int, ...]) -> tuple[str, ...]:
        """A few replicas that should have the most of it; none when nobody has any."""
        depth = _depth(chain, self._holders)
        return self._holders[chain[depth - 1]] if depth else ()

    def sent(self, replica: str, chain: tuple[int, ...]) -> None:
        """The replica reads this prompt now. One that is not known keeps nothing."""
        if replica not in self._kept:
            return
        blocks = self._blocks.get(replica)
        if blocks is None:
            blocks = self._blocks[replica] = OrderedDict()
        holders = self._holders
        for block in reversed(chain):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                held = holders.get(block)
                holders[block] = (replica,) if held is None else (replica, *held)[:_HOLDERS]
        self._trim(replica, blocks)

    def _trim(self, replica: str, blocks: OrderedDict[int, None]) -> None:
        while len(blocks) > self._kept[replica]:
            self._drop(replica, blocks.popitem(last=False)[0])

    def _drop(self, replica: str, block: int) -> None:
        holders = tuple(holder for holder in self._holders.get(block, ()) if holder != replica)
        if holders:
            self._holders[block] = holders
        else:
            self._holders.pop(block, None)


def _depth(chain: tuple[int, ...], known: Mapping[int, object]) -> int:
    """How many of the first blocks are known, when who knows one knows all before it: by halving."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in known:
            low = middle
        else:
            high = middle - 1
    return low
