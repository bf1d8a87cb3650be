"""One model before the memory ledger: what it wants and has, who waits for it, and what it costs to lose it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.control.accounts import RAM, Bytes, plus


@dataclass(frozen=True, slots=True)
class Claim:
    """One model before the ledger. Times are monotonic seconds."""

    model: str
    bytes_each: int
    """RAM that one replica takes."""
    wanted: int
    """Replicas that there should be, if memory were no matter."""
    least: int = 0
    """Replicas that no other model may take the place of."""
    up: int = 0
    """Replicas in memory or on their way in."""
    ready: int = 0
    """Those of `up` that serve."""
    leaving: int = 0
    """Replicas in memory that are on their way out."""
    waiting: int = 0
    running: int = 0
    oldest: float | None = None
    """Since when somebody waits: the oldest request, though not from before the model lost its place, for that was its turn. None
    when nobody waits.
    """
    since: float = 0.0
    """When the newest of `up` became what it is now: ready, or on its way in."""
    used: float = 0.0
    """When the last request was there; when it came itself, where none is known of."""
    rate: float = 0.0
    """Requests per second, about: how likely it is to be asked for soon."""
    reload_seconds: float = 5.0
    """From the decision to start a replica to its first answer."""
    devices: tuple[Bytes, ...] = ()
    """What the first, the second … replica takes of GPUs, by their names; none where all run on the CPU."""
    asleep: int = 0
    """Replicas that sleep in place."""
    asleep_each: Bytes = field(default_factory=dict)
    """What one of them holds."""
    beds: Mapping[int, Bytes] = field(default_factory=dict)
    """What a replica holds at each level at which it can sleep in place, the preferred level first, that which holds least last.
    None: it cannot.
    """

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def takes(self, number: int) -> Bytes:
        """What replica `number`, from 0, takes of each account."""
        device = self.devices[min(number, len(self.devices) - 1)] if self.devices else {}
        return {RAM: self.bytes_each, **device}

    @property
    def bed(self) -> Bytes:
        """The least that one holds while it sleeps."""
        return self.beds[max(self.beds)] if self.beds else {}

    def sum(self, first: int, last: int) -> Bytes:
        """What the replicas from `first` to before `last` take."""
        return plus(*(self.takes(number) for number in range(first, last)))
