"""Node pools as Karpenter's NodePools (AKS: node auto-provisioning), `karpenter.sh/v1`."""

from typing import Any

from headrace.plan.nodepool import NodePool
from headrace.spec.kubernetes import taint
from headrace.targets.nodepool.base import Ask

NODE_CLASS = {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"}
"""What node auto-provisioning brings."""

_EMPTY_FOR = "10m"
"""How long a machine stays that nothing runs on: an engine that starts again finds its image there."""


def manifest(pool: NodePool, ask: Ask) -> dict[str, Any]:
    """The NodePool. Machines are only taken away when nothing runs on them: engines take minutes to start elsewhere."""
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": pool.name, "labels": {"app.kubernetes.io/managed-by": "headrace"}},
        "spec": {
            "template": {"metadata": {"labels": ask.labels_of(pool)}, "spec": _machine(pool, ask)},
            "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": _EMPTY_FOR},
            "limits": {"nvidia.com/gpu": str(pool.most * pool.sku.gpus)},
        },
    }


def _machine(pool: NodePool, ask: Ask) -> dict[str, Any]:
    requirements = [
        _in("node.kubernetes.io/instance-type", pool.sku.name),
        _in("karpenter.sh/capacity-type", "spot" if ask.spot else "on-demand"),
        *([_in("topology.kubernetes.io/zone", *ask.zones)] if ask.zones else []),
    ]
    return {
        "nodeClassRef": dict(NODE_CLASS),
        "requirements": requirements,
        "taints": [_taint(text) for text in ask.taints],
        "expireAfter": "Never",
    }


def _in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


def _taint(text: str) -> dict[str, str]:
    key, value, effect = taint(text)
    return {"key": key, **({"value": value} if value else {}), "effect": effect}
