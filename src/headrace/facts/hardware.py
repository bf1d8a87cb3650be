"""Hardware as values: what is here. None is unknown, which is not zero."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process may use it.

    `cores` counts whole cores left by affinity and cgroup quota, at least 1. `memory_bytes` is the smaller of the
    machine's memory and the cgroup's limit, `memory_free_bytes` what could still be taken of it. `busy_cores` is how
    many of the cores others use right now. `quota` says that a cgroup limits the CPU: spinning threads then burn what
    work needs.
    """

    cores: int
    memory_bytes: int
    memory_free_bytes: int
    busy_cores: float | None = None
    quota: bool = False
