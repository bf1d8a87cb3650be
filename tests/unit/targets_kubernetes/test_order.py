"""The order of objects, and what is left over."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.targets.kubernetes.order import KINDS, Ref, leftovers, rank, ref, removal, stages

SHUFFLED = st.permutations([{"apiVersion": version, "kind": kind, "metadata": {"name": "x"}} for version, kind in KINDS])


@given(SHUFFLED)
def test_whatever_order_they_come_in_what_others_rest_on_comes_first(made: list[dict[str, Any]]) -> None:
    order = [each["kind"] for stage in stages(made) for each in stage]
    for before, after in [
        ("Namespace", "ServiceAccount"),
        ("ServiceAccount", "RoleBinding"),
        ("Role", "RoleBinding"),
        ("ConfigMap", "Job"),
        ("NetworkPolicy", "Deployment"),
        ("PersistentVolumeClaim", "Job"),
        ("Job", "Deployment"),
        ("Service", "Deployment"),
        ("Deployment", "ScaledObject"),
        ("TriggerAuthentication", "ScaledObject"),
    ]:
        assert order.index(before) < order.index(after), (before, after)
    assert len(order) == len(made)


@given(SHUFFLED)
def test_objects_go_in_the_other_order(made: list[dict[str, Any]]) -> None:
    ranks = [rank(each.kind) for stage in removal(map(ref, made)) for each in stage]
    assert ranks == sorted(ranks, reverse=True)


def test_a_kind_that_is_not_known_comes_last() -> None:
    assert rank("Surprise") > max(rank(kind) for _, kind in KINDS)


def test_every_kind_that_is_rendered_is_looked_for_when_something_is_left_over() -> None:
    golden = Path(__file__).parents[1] / "manifests" / "golden"
    rendered = [each for file in golden.rglob("*.yaml") for each in yaml.load_all(file.read_text(), yaml.CSafeLoader) if each]
    made = {(each["apiVersion"], each["kind"]) for each in rendered if "kind" in each}
    assert len(made) > 10
    assert made - {("kustomize.config.k8s.io/v1beta1", "Kustomization")} <= set(KINDS)


def test_the_same_object_in_another_version_is_the_same_object() -> None:
    old, new = (
        {"apiVersion": f"policy/{v}", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}} for v in ("v1beta1", "v1")
    )
    assert ref(old) == ref(new)


def test_what_is_left_over_goes_but_weights_and_namespaces_stay() -> None:
    here = Ref("Service", "chat", "", "ai")
    gone, volume = Ref("Deployment", "old", "apps", "ai"), Ref("PersistentVolumeClaim", "old-1a2b", "", "ai")
    live = [here, gone, volume, Ref("Namespace", "ai")]
    assert leftovers([here], live).stale == (gone,)
    assert leftovers([here], live).kept == (volume,)
    assert set(leftovers([here], live, weights=True).stale) == {gone, volume}
