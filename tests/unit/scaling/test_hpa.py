"""KEDA and the HPA against what the real HPA controller did (facts/keda-hpa.md, section 6), and the rules beside the traces.

`rendered` was recorded by us, in the same way and at the same settings, with behaviour like what Headrace renders, in less time.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from headrace.scaling.hpa import Behaviour, Direction, Hpa, Metric, Rule, propose, sync
from headrace.scaling.hpa import HpaState as Remembered
from headrace.scaling.keda import Answer, Fallback, KedaState, ScaledObject, hpa_sync, poll

RECORDED = Path(__file__).parents[4] / "shared" / "facts" / "recorded"
OURS = Path(__file__).parent / "recorded"
TRACES = ["steps", "legacy", "down", "slow", "fall"]

needs_traces = pytest.mark.skipif(not RECORDED.exists(), reason="the recorded traces are not here")


def folder_of(name: str) -> Path:
    return OURS if name == "rendered" else RECORDED


def rows(name: str) -> list[dict[str, str]]:
    with (folder_of(name) / f"hpa_trace_{name}.csv").open() as file:
        return list(csv.DictReader(file))


def recorded(name: str, version: str = "1.20") -> ScaledObject:
    """The trace's ScaledObject, with the settings that it was recorded with: stabilization 20 s, poll 2 s, cooldown 6 s."""
    spec = yaml.safe_load((folder_of(name) / f"hpa_trace_{name}.yaml").read_text())["spec"]
    metadata = spec["triggers"][0]["metadata"]
    behaviour = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
    fallback = spec.get("fallback")
    return ScaledObject(
        threshold=float(metadata["threshold"]),
        least=spec.get("minReplicaCount", 0),
        most=spec.get("maxReplicaCount", 100),
        activation=float(metadata.get("activationThreshold", 0)),
        ignore_null=metadata.get("ignoreNullValues", "true") == "true",
        polling_seconds=2,
        cooldown_seconds=6,
        fallback=fallback and Fallback(fallback["failureThreshold"], fallback["replicas"], fallback["behavior"]),
        hpa=Hpa(1, 100, behaviour=behaviour and behaviour_of(behaviour), down_seconds=20, version=version),
    )


def behaviour_of(behaviour: dict) -> Behaviour:
    given = {key: direction(behaviour[name]) for key, name in (("up", "scaleUp"), ("down", "scaleDown")) if name in behaviour}
    return Behaviour(**given)


def direction(value: dict) -> Direction:
    rules = tuple(Rule(rule["type"], rule["value"], rule["periodSeconds"]) for rule in value["policies"])
    return Direction(rules, value.get("stabilizationWindowSeconds"), value.get("selectPolicy", "Max"))


def answer(text: str) -> Answer:
    return "error" if text == "error" else "empty" if text == "" else float(text)


def replayed(name: str, version: str = "1.20") -> list[tuple[dict[str, str], str, str, str]]:
    """Each recorded row with our (proposed, after, why). `before` is the recorded one; the operator polls every 2 s."""
    scaled, state, out, polled, replicas = recorded(name, version), KedaState(0.0), [], 0.0, None
    for row in rows(name):
        now, replicas = float(row["t"]), int(row["before"] or (replicas or 0))
        while polled < now:  # the metric of a row is what the polls before it saw
            _, state = poll(scaled, state, polled, answer(row["metric"]), replicas)
            polled += 2
        if name == "rendered":  # when the stand-in fell back is its own affair: its polls were late, on a busy machine
            state = replace(state, failures=99 if row["metric"] == "error" and row["proposed"] else 0)
        done, state = hpa_sync(scaled, state, now, answer(row["metric"]), replicas, replicas)
        proposed = "" if done.proposed is None else str(done.proposed)
        out.append((row, proposed, str(done.after) if row["after"] else "", done.why))
    return out


@needs_traces
@pytest.mark.parametrize("name", TRACES)
def test_every_decision_of_the_real_controller_is_reproduced(name):
    for row, proposed, after, why in replayed(name):
        assert (proposed, after, why) == (row["proposed"], row["after"], row["reason"]), row


def test_every_decision_of_a_trace_of_our_own_is_reproduced():
    for row, proposed, after, why in replayed("rendered"):
        assert (proposed, after, why) == (row["proposed"], row["after"], row["reason"]), row


@needs_traces
@pytest.mark.parametrize("name", TRACES)
def test_the_present_controller_differs_only_in_its_accounting_of_steps(name):
    """The three rows that the facts name: the +2 of 58.49 is taken off the start of the way down."""
    others = {row["t"]: after for row, _, after, _ in replayed(name, "master") if after != row["after"]}
    assert others == ({"64.55": "4", "67.57": "4", "77.12": "3"} if name == "slow" else {})


@needs_traces
def test_keda_moves_between_none_and_some_when_the_recording_did():
    """legacy: 4 → 0 at an empty answer once cooled, 0 → 1 at 3, not at 1, which is below the activation threshold."""
    scaled, state, polled, moves = recorded("legacy"), KedaState(0.0), 0.0, []
    trace = rows("legacy")
    replicas = int(trace[0]["before"])
    for row in trace:
        while polled < float(row["t"]):
            after, state = poll(scaled, state, polled, answer(row["metric"]), replicas)
            if after != replicas:
                moves.append((polled, replicas, after))
            replicas = after
            polled += 2
        if row["reason"] not in ("scaling disabled", "metric failed"):
            replicas = int(row["after"])
    assert [(before, after) for _, before, after in moves] == [(4, 0), (0, 1)]
    assert 62.13 < moves[0][0] <= 65.13
    assert 89.15 < moves[1][0] < 95.69


HPA = Hpa(1, 20)


@pytest.mark.parametrize(
    ("value", "replicas", "proposed"),
    [
        (11.0, 1, 2),  # 1.1 is 0.1000…9 above 1: outside the tolerance, as in Go's floats
        (10.9, 1, 1),  # within it
        (9.0, 1, 1),
        (89.9, 10, 9),
        (91.0, 10, 10),
        (0.0, 0, 0),  # no pods exist: no ratio
        (0.001, 0, 1),
        (0.0004, 1, 0),  # three decimals: nothing
    ],
)
def test_an_average_is_proposed_with_tolerance(value, replicas, proposed):
    assert propose(HPA, Metric(value, 10), replicas, replicas) == proposed


def test_a_value_counts_ready_pods_only():
    """Which shrinks what is still loading: 8 asked for, 2 ready, twice the target asks for 4."""
    assert propose(replace(HPA, kind="Value"), Metric(20, 10), 8, 2) == 4


def test_the_largest_of_several_metrics_wins():
    done, _ = sync(HPA, Remembered(), 0, [Metric(15, 10), Metric(70, 10)], 2, 2)
    assert done.proposed == 7


@pytest.mark.parametrize(("version", "after"), [("1.20", 2), ("master", 6)])
def test_while_a_metric_fails_the_present_controller_does_not_scale_in(version, after):
    hpa, state = replace(HPA, version=version, down_seconds=10), Remembered()
    for now in (0, 15, 30):
        done, state = sync(hpa, state, now, [Metric(None, 10), Metric(15, 10)], 6, 6)
    assert done.after == after


def test_a_tolerance_of_its_own_is_the_present_controllers():
    wide = replace(HPA, behaviour=Behaviour(up=Direction((Rule("Pods", 4, 15),), 0, tolerance=0.5)))
    assert propose(wide, Metric(14, 10), 1, 1) == 1
    assert propose(replace(wide, version="1.20"), Metric(14, 10), 1, 1) == 2


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_direction_that_is_disabled_does_not_move(name):
    hpa = replace(HPA, behaviour=Behaviour(**{name: Direction((Rule("Pods", 4, 15),), 0, "Disabled")}))
    done, _ = sync(hpa, Remembered(), 0, [Metric(200 if name == "up" else 0, 10)], 5, 5)
    assert done.after == 5


def test_what_is_outside_the_range_is_brought_in_before_any_metric():
    assert sync(HPA, Remembered(), 0, [Metric(None, 10)], 30, 30)[0].after == 20


SCALED = ScaledObject(10.0, cooldown_seconds=300, polling_seconds=30)


@pytest.mark.parametrize(
    ("scaled", "replicas", "metric", "idle", "after"),
    [
        (SCALED, 0, 1.0, 0, 1),  # active
        (replace(SCALED, least=3), 0, 1.0, 0, 3),
        (replace(SCALED, activation=2), 0, 2.0, 0, 0),  # strictly greater
        (SCALED, 4, 0.0, 299, 4),  # not cooled
        (SCALED, 4, 0.0, 300, 4),  # strictly later
        (SCALED, 4, 0.0, 301, 0),  # in one step
        (replace(SCALED, ignore_null=False), 4, "empty", 1000, 4),  # an error without fallback: nothing
        (SCALED, 4, "empty", 301, 0),  # an empty answer is a zero: mistake 2 of the facts
        (replace(SCALED, least=2), 1, 0.0, 0, 2),  # below the least
        (replace(SCALED, least=2, idle_replicas=0), 2, 0.0, 301, 0),
        (replace(SCALED, least=2, idle_replicas=0), 0, 5.0, 0, 2),
        (replace(SCALED, fallback=Fallback(99, 0)), 4, "error", 301, 0),  # fallback.replicas 0 falls through
        (replace(SCALED, fallback=Fallback(99, 1)), 4, "error", 301, 4),
        (replace(SCALED, fallback=Fallback(0, 3)), 0, "error", 301, 1),  # falling back is active
    ],
)
def test_the_operator_moves_between_none_and_some(scaled, replicas, metric, idle, after):
    assert poll(scaled, KedaState(0.0, last_active=1000.0), 1000.0 + idle, metric, replicas)[0] == after


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("static", 5), ("currentReplicas", 8), ("currentReplicasIfHigher", 8), ("currentReplicasIfLower", 5)],
)
def test_a_fallback_of_each_kind(kind, wanted):
    assert Fallback(3, 5, kind).wanted(8) == wanted


def test_a_success_ends_the_count_of_failures():
    scaled, state = replace(SCALED, fallback=Fallback(2, 5)), KedaState(0.0)
    for metric in ("error", "error", 10.0, "error", "error"):
        _, state = poll(scaled, state, 0.0, metric, 2)
    assert state.failures == 2
    done, _ = hpa_sync(scaled, state, 0.0, "error", 2, 2)
    assert done.after == 4  # the third in a row: 5 wanted, at most 4 without `behavior`
