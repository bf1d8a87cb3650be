"""What a replica's memory is made of: the plan's sum, in named parts."""

from headrace.engines.base import Placement
from headrace.plan.memory import CACHE_FACTORS, cache_bytes
from headrace.plan.plan import PlannedModel

_CACHE_TYPE, _BATCH = "f16", 512


def parts(model: PlannedModel | None, placement: Placement) -> dict[str, int]:
    """Bytes by name: weights, cache, runtime; they add up to what the plan expects the replica to take.

    A model that nothing is known of is one part: memory; so is what one on GPUs takes beside them.
    """
    total = placement.memory_bytes
    if placement.devices and total:
        return {"runtime": total}
    if model is None or model.facts is None or not total:
        return {"memory": total} if total else {}
    weights = min(total, model.facts.weight_bytes)
    cache = min(total - weights, _cache(model, placement))
    found = {"weights": weights, "cache": cache, "runtime": total - weights - cache}
    return {name: size for name, size in found.items() if size}


def _cache(model: PlannedModel, placement: Placement) -> int:
    if said := placement.options.get("cache_bytes"):
        return int(said)
    kind = str(placement.options.get("cache_type", _CACHE_TYPE))
    if model.facts is None or not placement.context or kind not in CACHE_FACTORS:
        return 0
    return cache_bytes(model.facts, placement.context, placement.slots, kind, int(placement.options.get("batch", _BATCH)))
