"""How long the local target waits for what."""

from dataclasses import dataclass, field

from headrace.targets.restarts import RestartPolicy

ADAPT_SECONDS = 300.0
"""How long loading one adapter may take."""
ADAPT_AGAIN_SECONDS = 30.0
"""When an adapter that was refused is tried again: its files may have come meanwhile."""
REST_SECONDS = 300.0
"""How long going to sleep in place, or waking, may take for each of its requests: weights may have to be read again."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless a name says otherwise."""

    load_limit: float = 600.0
    """A replica that is not ready by then has failed. The largest models on slow disks need minutes."""
    load_probe: float = 0.05
    """Between two questions whether it is ready; each costs a connection to a Unix socket."""
    health: float = 5.0
    """Between two health checks of a ready replica."""
    health_timeout: float = 10.0
    """How long one may take. An engine on busy cores may answer late."""
    health_failures: int = 3
    """Failures in a row after which it counts as hung and is killed."""
    scrape: float = 5.0
    """Between two readings of its metrics."""
    watch: float = 1.0
    """Between two questions to a server that is not ours and not ready, or that closed its door; between two first requests."""
    memory: float = 1.0
    """The age up to which memory figures are good enough."""
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
