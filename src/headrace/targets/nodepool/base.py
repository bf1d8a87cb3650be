"""What is asked of node pools beyond what the plan says, and what both AKS and Karpenter are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.plan.nodepool import NodePool

SPOT_TAINT = "kubernetes.azure.com/scalesetpriority=spot:NoSchedule"
"""What AKS puts on spot nodes itself."""

GPU_PRESENT = {"nvidia.com/gpu.present": "true"}
"""Where the device plugin's chart starts a pod without waiting for node feature discovery, and where models go by default."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`labels` and `taints` (KEY=VALUE:EFFECT) of all pools, `own` further labels by pool; spot machines; zones."""

    taints: tuple[str, ...] = ("sku=gpu:NoSchedule",)
    labels: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    spot: bool = False
    zones: tuple[str, ...] = ()

    def labels_of(self, pool: NodePool) -> dict[str, str]:
        return {**GPU_PRESENT, **self.labels, **self.own.get(pool.name, {})}


def reasons(pool: NodePool) -> list[str]:
    """Why there is the pool, and what it costs, a line each."""
    price = pool.sku.price
    if price is None:
        return [pool.reason, f"{pool.sku.name}: no price is known"]
    unverified = ", unverified" if "unverified" in price.source else ""
    return [pool.reason, f"{pool.sku.name}: about {price.usd_per_hour:g} USD an hour each ({price.date}{unverified})"]
