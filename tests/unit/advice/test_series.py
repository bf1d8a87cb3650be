"""Series are read as they are: counters that begin again, lengths in buckets, pods of one workload and not of its neighbour's."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.advice.base import Request, counted
from headrace.advice.metric_names import ENGINES, GATEWAY
from headrace.advice.series import Page, Series, increases, told

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"
TIMES = [15.0 * place for place in range(8)]


def series(name: str, value: float, grows: bool = False, **labels: str) -> Series:
    return Series(name, labels, {at: value * (place if grows else 1) for place, at in enumerate(TIMES)})


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=40))
def test_a_counter_that_begins_again_loses_nothing_but_what_nobody_saw(steps: list[tuple[int, bool]]) -> None:
    """It grows by so much at each look; before some it begins again, and what it grew by is all that it shows."""
    value, points = 1000, {0.0: 1000.0}
    seen = 0
    for place, (by, again) in enumerate(steps, 1):
        value = by if again else value + by
        points[float(place)] = float(value)
        seen += by
    restarts = any(again for _, again in steps)
    total = sum(increases(points).values())
    assert total == seen or (restarts and 0 <= total <= seen), (
        "a counter that passes its old value at once is not seen to restart"
    )
    assert all(one >= 0 for one in increases(points).values())


def test_pods_belong_to_one_workload() -> None:
    """TGI and llama.cpp do not say the model: `chat` has two pods, `chat-large` another, and a StatefulSet's is numbered."""
    pods = {"chat-6c5f7d8b9-x2x4z": 1, "chat-6c5f7d8b9-zzz22": 2, "chat-large-6c5f7d8b9-x2x4z": 4, "code-0": 8}
    page = Page([series("tgi_queue_size", value, pod=pod) for pod, value in pods.items()], TIMES)
    found = {name: told(page, name, name) for name in ("chat", "chat-large", "code", "cha")}
    assert {name: (one.samples[0].waiting, one.samples[0].ready) for name, one in found.items() if one.samples} == {
        "chat": (3, 2),
        "chat-large": (4, 1),
        "code": (8, 1),
    }
    assert found["chat"].engine == "tgi"


def test_ranks_of_one_pod_are_one_replica() -> None:
    rows = [series("vllm:num_requests_waiting", 2, model_name="chat", pod="chat-0", engine=str(rank)) for rank in range(4)]
    one = told(Page(rows, TIMES), "chat")
    assert {(look.waiting, look.running, look.ready) for look in one.samples} == {(8, None, 1)}


def test_output_tokens_are_those_of_the_engine_else_of_the_gateway_else_unknown() -> None:
    ours = [series("headrace_queue_depth", 1, model="chat"), series("headrace_generated_tokens_total", 30, True, model="chat")]
    theirs = [series("vllm:num_requests_waiting", 2, model_name="chat", pod="chat-0")]
    counted = [series("vllm:generation_tokens_total", 60, True, model_name="chat", pod=f"chat-{n}") for n in range(2)]

    def tokens(rows: list[Series]) -> set[float | None]:
        return {look.tokens for look in told(Page(rows, TIMES), "chat").samples[1:]}

    assert tokens(theirs) == {None}
    assert tokens([*ours, *theirs]) == {30}
    assert tokens([*ours, *theirs, *counted]) == {120}, "of both pods"


def test_old_names_are_read_where_the_new_are_missing() -> None:
    labels = {"model_name": "chat", "pod": "chat-0"}
    rows = [series("vllm:num_requests_waiting", 5, **labels), series("vllm:gpu_cache_usage_perc", 0.99, **labels)]
    assert len(told(Page(rows, TIMES), "chat").short_of_memory or ()) == len(TIMES)
    assert told(Page(rows[:1], TIMES), "chat").short_of_memory is None, "nobody tells of the cache"


LENGTHS = [
    # The longest prompts have the longest answers: three of 50 and 20, one of 1000 and 20, one of 1000 and 400.
    ({"50": 3, "1000": 5, "+Inf": 5}, {"20": 4, "400": 5, "+Inf": 5}, {(50, 20): 3, (1000, 20): 1, (1000, 400): 1}),
    # Beyond the last bound a length counts twice that bound.
    ({"50": 0, "+Inf": 2}, {"20": 2, "+Inf": 2}, {(100, 20): 2}),
]


@pytest.mark.parametrize(("prompts", "answers", "lengths"), LENGTHS)
def test_lengths_are_never_understated(
    prompts: dict[str, int], answers: dict[str, int], lengths: dict[tuple[int, int], int]
) -> None:
    labels = {"model_name": "chat", "pod": "chat-0"}
    rows = [series("vllm:num_requests_waiting", 0, **labels)]
    for name, buckets in (("prompt", prompts), ("generation", answers)):
        rows += [series(f"vllm:request_{name}_tokens_bucket", count, True, **labels, le=le) for le, count in buckets.items()]
    found: dict[tuple[int | None, int | None], float] = {}
    first: list[Request] = [one for one in told(Page(rows, TIMES), "chat").requests if one.at == TIMES[1]]
    for one in first:
        found[one.tokens_in, one.tokens_out] = one.count
    assert found == lengths
    assert counted(first) == sum(lengths.values())


def test_the_gateway_tells_of_replicas_that_every_gateway_sees_and_of_sleep() -> None:
    def state(instance: str, replica: str, value: float) -> Series:
        return series("headrace_replica_state", value, model="chat", replica=replica, state="ready", instance=instance)

    depth = series("headrace_queue_depth", 1, model="chat", instance="a")
    rows = [depth, *(state(gateway, replica, 1) for gateway in "ab" for replica in ("chat-1", "chat-2"))]
    assert told(Page(rows, TIMES), "chat").samples[0].ready == 2
    asleep = [depth, series("headrace_replicas_wanted", 0, model="chat", instance="a")]
    assert told(Page(asleep, TIMES), "chat").samples[0].ready == 0
    assert told(Page([depth], TIMES), "chat").samples[0].ready is None, "nobody says"


OLD = ("vllm:gpu_cache_usage_perc", "vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_hits_total")
"""Names of vLLM before 0.10; the recorded page is of 0.32."""


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "triton"])
def test_names_are_those_of_the_recorded_pages(engine: str) -> None:
    page = (RECORDED / f"{engine}_metrics.txt").read_text()
    names = next(one for one in ENGINES if one.engine == engine)
    found = set(re.findall(r"^([a-zA-Z_:]+)[{ ]", page, re.MULTILINE))
    assert set(names.all) - set(OLD) <= found
    if names.label:
        assert f"{names.label}=" in page


def test_names_of_the_gateway_are_its_own() -> None:
    from headrace.gateway.metrics import NAMES

    assert set(GATEWAY.all) <= {one.name for one in NAMES}


@pytest.mark.parametrize("lengths", [False, True], ids=["lengths unknown", "lengths known"])
def test_a_request_that_woke_it_is_one_request(lengths: bool) -> None:
    """Three times it sleeps, is asked once, and answers: three requests, each of which waited for a look."""
    awake = [at for at in TIMES if TIMES.index(at) % 2]
    ready = Series("kube_deployment_status_replicas_ready", {"deployment": "chat"}, {at: float(at in awake) for at in TIMES})
    done = {at: float(sum(other <= at for other in awake)) for at in TIMES}
    labels = {"model_name": "chat", "pod": "chat-0"}
    rows = [ready, series("vllm:num_requests_waiting", 0, **labels), Series("vllm:request_success_total", labels, done)]
    for name in ("prompt", "generation") if lengths else ():
        rows += [Series(f"vllm:request_{name}_tokens_bucket", {**labels, "le": le}, done) for le in ("50", "+Inf")]
    found = told(Page(rows, TIMES), "chat").requests
    assert counted(found) == len(awake)
    assert [(one.at, one.waited, one.count) for one in found] == [(at - 15.0, 15.0, 1.0) for at in awake]
    assert {one.tokens_in for one in found} == ({50} if lengths else {None})
