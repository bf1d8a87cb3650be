"""`headrace why` of a running gateway: the one thing that stands in a model's way, as the gateway's status tells it."""

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.errors import UsageError
from headrace.units import show_duration

_IS = {"failed": "has failed"}


def why_text(status: Mapping[str, Any], name: str) -> str:
    """The model's phase with its reason, what else hinders it, and what to do. Raises UsageError for one that is not there."""
    for model in status["models"]:
        if name in (model["name"], *model["aliases"], *model.get("also", ())):
            said = f"{model['name']} {_IS.get(model['phase'], 'is ' + model['phase'])}"
            said += f": {model['reason']}." if model["reason"] else "."
            causes = [*_draining(status), *_causes(model)]
            fine = model["phase"] in ("ready", "asleep") and not causes
            return "\n".join([f"{said} Nothing stands in its way." if fine else said, *causes])
    known = ", ".join(model["name"] for model in status["models"])
    raise UsageError(f'The gateway has no model "{name}".', f"It has: {known}.")


def _draining(status: Mapping[str, Any]) -> Iterator[str]:
    if status["draining"]:
        yield "The gateway drains: what it has is answered, and nothing new is taken."


def _causes(model: Mapping[str, Any]) -> Iterator[str]:
    told = model["reason"]
    for replica in model["replicas"]:
        if replica["state"] != "ready" and replica["reason"] and replica["reason"] not in told:
            yield f"{replica['name']} is {replica['state']}: {replica['reason']}."
    ended = [replica for replica in model["replicas"] if replica["restarts"]]
    for replica in ended if model["phase"] == "ready" else ():
        times = "once" if replica["restarts"] == 1 else f"{replica['restarts']} times"
        yield f"{replica['name']} has ended {times} and was started again."
    yield from _queue(model)
    if model["replicas"] and (ended or model["phase"] == "failed"):
        yield f"What it wrote: headrace logs {model['name']}"


def _queue(model: Mapping[str, Any]) -> Iterator[str]:
    """Requests that wait although it is ready."""
    load, limit = model["load"], model.get("queue_limit")
    waiting, oldest = load["waiting"], load.get("oldest_seconds")
    if model["phase"] != "ready" or not waiting:
        return
    since = f", the oldest for {show_duration(oldest)}" if oldest else ""
    busy = f"{sum(load['running'].values())} of {model['slots']} slots are in use"
    if limit is not None and waiting >= limit:
        yield f"Its queue is full: {busy}, {waiting} requests wait{since}, and more are refused (429)."
    else:
        yield f"{busy}, and {waiting} {'request waits' if waiting == 1 else 'requests wait'} for one{since}."
    yield f"What would help, by what was recorded: headrace advise {model['name']}"
