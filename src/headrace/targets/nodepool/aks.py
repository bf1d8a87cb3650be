"""Node pools as `az aks nodepool add` commands. Flags: azure-cli, command module acs."""

import shlex
from collections.abc import Sequence

from headrace.plan.nodepool import NodePool
from headrace.targets.nodepool.base import SPOT_TAINT, Ask, reasons
from headrace.targets.sharing import mig

HEAD = """\
#!/bin/sh
# Made by headrace nodepool. Run it with GROUP and CLUSTER set: GROUP=… CLUSTER=… sh nodepool.sh
set -eu
: "${GROUP:?the resource group of the cluster}" "${CLUSTER:?the name of the AKS cluster}"
"""


def commands(pools: Sequence[NodePool], ask: Ask) -> str:
    """A shell script that adds the pools, each with the reason for it."""
    blocks = [HEAD, *(_command(pool, ask) for pool in pools)]
    if ask.spot:
        blocks.append(
            f"# AKS taints spot machines itself. Models tolerate it with\n#   kubernetes: {{nodes: {{taints: [{SPOT_TAINT}]}}}}\n"
        )
    return "\n".join(blocks)


def _command(pool: NodePool, ask: Ask) -> str:
    said = [f"# {comment(line)}" for line in reasons(pool)]
    words = [*_words(pool, ask)]
    lines = ["az aks nodepool add", '--resource-group "$GROUP" --cluster-name "$CLUSTER"', *words]
    return "\n".join([*said, " \\\n  ".join(lines)]) + "\n"


def _words(pool: NodePool, ask: Ask) -> list[str]:
    """Flags with their values, each as it stands in a shell."""
    lines = [_flag("--name", pool.name), _flag("--mode", "User"), _flag("--node-vm-size", pool.sku.name), _count(pool)]
    if ask.taints:
        lines.append(_flag("--node-taints", ",".join(ask.taints)))
    labels = [f"{key}={value}" for key, value in ask.labels_of(pool).items()]
    lines.append(_flag("--labels", *labels))
    if profile := mig.aks_profile(pool.layout, pool.gpu) if pool.mode == "mig" else None:
        lines.append(_flag("--gpu-instance-profile", profile))
    if ask.spot:
        lines.append(_flag("--priority", "Spot", "--eviction-policy", "Delete", "--spot-max-price", "-1"))
    if ask.zones:
        lines.append(_flag("--zones", *ask.zones))
    return lines


def _count(pool: NodePool) -> str:
    """A range is the cluster autoscaler's: models that scale to zero leave no machine behind."""
    if pool.least == pool.most:
        return _flag("--node-count", str(pool.most))
    least, most = str(pool.least), str(pool.most)
    return _flag("--enable-cluster-autoscaler", "--min-count", least, "--max-count", most, "--node-count", least)


def _flag(*words: str) -> str:
    return shlex.join(words)


def comment(text: str) -> str:
    """`text` fit for one line of a comment."""
    return " ".join(text.split())
