"""An hour of series as engines and kube-state-metrics would have had them, as OpenMetrics text: for promtool, and for a fake."""

from collections.abc import Callable, Iterator

BEGAN, SECONDS, EVERY = 1_767_225_600, 3600, 15
"""2026-01-01 in UTC, an hour, a scrape each quarter of a minute."""

Row = tuple[str, str, Callable[[int], float | None]]
"""A name, its labels, and its value by scrape; None where there was none."""


def grows(each: float, reset: int | None = None) -> Callable[[int], float]:
    """A counter that grows so much a scrape, and begins again at one."""
    return lambda place: each * (place if reset is None or place < reset else place - reset)


def vllm(
    model: str, pod: str, waiting: float, running: float, usage: float = 0.4, reset: int | None = None, each: int = 4
) -> Iterator[Row]:
    """One pod of vLLM that answers `each` between scrapes: prompts of at most 500 tokens, answers of at most 100."""
    labels = f'engine="0",model_name="{model}",namespace="inference",pod="{pod}"'
    yield "vllm:num_requests_waiting", labels, lambda place: waiting
    yield "vllm:num_requests_running", labels, lambda place: running
    yield "vllm:kv_cache_usage_perc", labels, lambda place: usage
    yield "vllm:num_preemptions_total", labels, grows(1 if usage > 0.9 else 0, reset)
    yield "vllm:request_success_total", f'{labels},finished_reason="stop"', grows(each, reset)
    yield "vllm:prefix_cache_queries_total", labels, grows(1000, reset)
    yield "vllm:prefix_cache_hits_total", labels, grows(50, reset)
    for name, edge in (("prompt", 500), ("generation", 100)):
        for bound in (50, 100, 500, 1000, "+Inf"):
            counted = each if bound == "+Inf" or float(bound) >= edge else 0
            yield f"vllm:request_{name}_tokens_bucket", f'{labels},le="{bound}"', grows(counted, reset)


def deployment(name: str, ready: Callable[[int], float | None], most: int) -> Iterator[Row]:
    """What kube-state-metrics tells."""
    yield "kube_deployment_status_replicas_ready", f'namespace="inference",deployment="{name}"', ready
    labels = f'namespace="inference",horizontalpodautoscaler="keda-hpa-{name}"'
    yield "kube_horizontalpodautoscaler_spec_max_replicas", labels, lambda place: most


def gateway(model: str, waiting: float, running: float, repeated: float) -> Iterator[Row]:
    """Our own gateway, with the share of prompts that begin alike."""
    label = f'namespace="inference",model="{model}"'
    yield "headrace_queue_depth", label, lambda place: waiting
    yield "headrace_in_flight_requests", f'{label},replica="a"', lambda place: running
    yield "headrace_requests_total", f'{label},status="200"', grows(4)
    yield "headrace_prompt_blocks_total", label, grows(100)
    yield "headrace_prompt_blocks_matched_total", label, grows(100 * repeated)


def text(rows: list[Row]) -> str:
    """OpenMetrics, with times."""
    looks = ((name, labels, place, value(place)) for name, labels, value in rows for place in range(SECONDS // EVERY))
    lines = [f"{name}{{{labels}}} {now:g} {BEGAN + place * EVERY}" for name, labels, place, now in looks if now is not None]
    return "\n".join([*lines, "# EOF\n"])
