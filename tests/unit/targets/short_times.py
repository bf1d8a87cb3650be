"""Waits short enough for tests."""

from headrace.targets.restarts import RestartPolicy
from headrace.targets.timing import Timing

SHORT = Timing(
    load_limit=30.0,
    load_probe=0.01,
    health=0.02,
    health_timeout=10.0,
    scrape=0.02,
    watch=0.02,
    memory=0.0,
    restarts=RestartPolicy(backoff=(0.01,)),
)
