"""How engines keep the prompts that they have read: as blocks that all share, or one prompt in each slot."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

Chain = tuple[int, ...]
"""Hashes of a prompt's blocks, each of all before it too."""
NO_SLOT = -1
NONE: Sequence[int] = ()


class Blocks:
    """As vLLM and OpenVINO do it: any prompt finds the blocks that begin it; the least recently used ones go.

    A block is used no earlier than all that follow it, and forgotten no earlier: who has a block has all before it.
    """

    __slots__ = ("blocks", "most")
    count: int | None = None

    def __init__(self) -> None:
        self.blocks: OrderedDict[int, None] = OrderedDict()
        self.most = 0
        """Blocks that there is room for."""

    def found(self, chain: Chain) -> int:
        """How many of a prompt's first blocks it would find now."""
        return depth(chain, self.blocks)

    def sent(self, chain: Chain) -> tuple[int, Sequence[int], Sequence[int]]:
        """It reads this prompt now: the slot that it takes, the blocks that can be found from now on, and those no more."""
        came, blocks = [], self.blocks
        for block in reversed(chain):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                came.append(block)
        return NO_SLOT, came, self.trimmed()

    def left(self, slot: int) -> Sequence[int]:
        """The request in that slot is over: the blocks that can be found from now on."""
        return NONE

    def trimmed(self) -> Sequence[int]:
        """The blocks that there is no room for, taken out."""
        over = len(self.blocks) - self.most
        return [self.blocks.popitem(last=False)[0] for _ in range(over)] if over > 0 else NONE

    def clear(self) -> None:
        """It was started anew."""
        self.blocks.clear()


class Slots:
    """As llama.cpp does it (`get_available_slot` of its server, xllamacpp 2026.10): each slot keeps the last prompt that it had,
    and none reads another's.

    A request takes the free slot whose prompt shares most of its beginning, at least a tenth, else the one left longest ago. So a
    prompt that is being answered helps nobody, and who takes a slot for a beginning ends what another conversation had after it.
    """

    __slots__ = ("_free", "_held", "blocks", "count", "most")

    def __init__(self, count: int) -> None:
        self.count = count
        self.most = 0
        """Blocks that a slot has room for."""
        self.clear()

    def clear(self) -> None:
        """As `Blocks`."""
        self.blocks: dict[int, int] = {}
        """Those of prompts in free slots, with these slots as bits."""
        self._held: list[Chain] = [()] * self.count
        self._free: dict[int, None] = dict.fromkeys(reversed(range(self.count)))  # first the one that was left longest ago

    def found(self, chain: Chain) -> int:
        """As `Blocks`."""
        shared = depth(chain, self.blocks)
        return shared if shared * 10 > len(chain) else 0

    def sent(self, chain: Chain) -> tuple[int, Sequence[int], Sequence[int]]:
        """As `Blocks`. A prompt too short for a block takes a slot too; no slot where all are taken by requests of before."""
        if not self._free:
            return NO_SLOT, NONE, NONE
        slot = self._chosen(chain)
        del self._free[slot]
        gone, others, blocks = [], ~(1 << slot), self.blocks
        for block in self._held[slot]:
            left = blocks[block] & others
            if left:
                blocks[block] = left
            else:
                del blocks[block]
                gone.append(block)
        self._held[slot] = chain[: self.most]
        return slot, NONE, gone

    def left(self, slot: int) -> Sequence[int]:
        """As `Blocks`."""
        if slot in self._free or slot >= self.count:  # of before it was started anew
            return NONE
        self._free[slot] = None
        came, bit, blocks = [], 1 << slot, self.blocks
        for block in self._held[slot]:
            if block in blocks:
                blocks[block] |= bit
            else:
                blocks[block] = bit
                came.append(block)
        return came

    def trimmed(self) -> Sequence[int]:
        """As `Blocks`: what a slot has it keeps until the next."""
        return NONE

    def _chosen(self, chain: Chain) -> int:
        shared = self.found(chain)
        if not shared:
            return next(iter(self._free))
        slots = self.blocks[chain[shared - 1]]
        return (slots & -slots).bit_length() - 1  # the lowest of those that share as much


def depth(chain: Chain, known: Mapping[int, object]) -> int:
    """How many of the first blocks are known, when who knows one knows all before it: by halving."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in known:
            low = middle
        else:
            high = middle - 1
    return low
