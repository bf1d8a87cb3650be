"""Another spec and plan for what runs: what stays as it is, what changes and how, and whether that is so by now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.lock import asked
from headrace.spec.model import GatewaySpec, Spec
from headrace.targets.base import Replica, State
from headrace.targets.changes import Adapts, Room, bytes_of, only_adapters, room_of
from headrace.units import show_bytes

LIVE = ("models", "aliases", "gateway", "machine", "kubernetes")
LIVE_GATEWAY = ("queue", "drain", "body", "connections")
"""Keys that a running gateway can change; any other stays as it was until the next start."""
_WAIT = "wait"
"""What idle threads do depends on who else uses the cores at the moment: that is no reason to start anything anew."""


def lasting(old: Spec, new: Spec) -> tuple[Spec, list[str]]:
    """The new spec, but for what cannot change while it runs, and a sentence for each such key that the file changes."""
    top = [name for name in Spec.model_fields if name not in LIVE and getattr(new, name) != getattr(old, name)]
    was, now = old.gateway, new.gateway
    below = [name for name in GatewaySpec.model_fields if name not in LIVE_GATEWAY and getattr(now, name) != getattr(was, name)]
    gateway = now.model_copy(update={name: getattr(was, name) for name in below})
    spec = new.model_copy(update={**{name: getattr(old, name) for name in top}, "gateway": gateway})
    names = [*top, *(f"gateway.{name}" for name in below)]
    return spec, [f"! {name}: cannot change while it runs, and stays as it was until the next start" for name in names]


def kept(old: Plan, new: Plan) -> Plan:
    """The new plan, in which models whose replicas would be the same but for adapters keep what else those run with."""
    before = {model.name: model for model in old.models}
    models = (_kept(before[model.name], model) if model.name in before else model for model in new.models)
    return replace(new, models=tuple(models))


def _kept(old: PlannedModel, new: PlannedModel) -> PlannedModel:
    have, want = next(iter(old.replicas), ""), next(iter(new.replicas), "")
    if isinstance(have, str) or isinstance(want, str):
        return new
    alike = _waiting(want, have)
    if replace(alike, adapters=have.adapters, also=have.also) != have:
        return new
    waits = [decision for decision in old.decisions if decision.subject == _WAIT]
    decisions = tuple(waits[0] if one.subject == _WAIT and waits else one for one in new.decisions)
    return replace(new, replicas=(alike,) * len(new.replicas), decisions=decisions)


def _waiting(placement: Placement, like: Placement) -> Placement:
    """The placement, with threads that idle as those of another."""
    if _WAIT not in placement.options or _WAIT not in like.options:
        return placement
    return replace(placement, options={**placement.options, _WAIT: like.options[_WAIT]})


@dataclass(frozen=True, slots=True)
class Changed:
    """One model that is added (`+`), removed (`-`) or changed (`~`): by which keys of the file, and how that comes about."""

    sign: str
    model: str
    what: str
    way: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.model}: {self.sentence}"

    @property
    def sentence(self) -> str:
        return f"{self.what}; {self.way}" if self.way else self.what


def changed(before: Spec, after: Spec) -> list[Changed]:
    """What the file changes of models, in its order."""
    found = []
    for name in (*after.models, *(name for name in before.models if name not in after.models)):
        if name not in after.models:
            found.append(Changed("-", name, "served no more"))
        elif name not in before.models:
            found.append(Changed("+", name, after.models[name].source or ", ".join(after.models[name].url) or "new"))
        elif told := _differences(asked(before.models[name]), asked(after.models[name])):
            found.append(Changed("~", name, ", ".join(told)))
    return found


def planned(found: Sequence[Changed], old: Plan, new: Plan, replicas: Sequence[Replica], adapts: Adapts) -> list[Changed]:
    """What was found, with how it comes about; and models that change although the file asks the same of them."""
    was, now = ({model.name: model for model in plan.models} for plan in (old, new))
    told = {one.model for one in found}
    more = [Changed("~", name, _anew(was[name], now[name])) for name in now if name in was and name not in told]
    room = _room(new, replicas)
    return [replace(one, way=_way(one, now.get(one.model), room, adapts)) for one in (*found, *more) if one.what]


def _anew(was: PlannedModel, now: PlannedModel) -> str:
    """In which decisions a model is planned otherwise, though the file says the same; nothing when its replicas are the same."""
    if was.replicas[:1] == now.replicas[:1]:
        return ""
    before, after = ({one.subject: one.value for one in model.decisions if one.subject != "start"} for model in (was, now))
    return "planned anew: " + (", ".join(_differences(before, after)) or "it is another by now")


def _room(plan: Plan, replicas: Sequence[Replica]) -> Room:
    """What is free beside all that stays, once what is served no more is gone."""
    return room_of(plan, [one for one in replicas if any(model.name == one.model for model in plan.models)])


def _way(one: Changed, model: PlannedModel | None, room: Room, adapts: Adapts) -> str:
    """How a change comes about."""
    if model is None:
        return "its replicas answer what they have and go"
    if model.refused or not model.replicas:
        return f"it cannot be served: {model.refused}"
    if one.sign == "+":
        return _coming(model)
    there = [replica for replica in room.observed if replica.model == model.name]
    others = [replica.placement for replica in there if replica.placement not in model.replicas]
    if not others:
        return "no replica is started anew" if there else ""
    if all(only_adapters(other, model.replicas[0], adapts) for other in others):
        return "its replicas load and unload adapters while they serve"
    return _replaced(model, room)


def _coming(model: PlannedModel) -> str:
    size = _size(model)
    return f"asleep until somebody asks, {size}" if model.sleeps else size or "a server that runs already"


def _replaced(model: PlannedModel, room: Room) -> str:
    size = _size(model)
    if not size:
        return "the new servers are asked before the old ones go"
    if room.takes(model.replicas[0]):
        return f"the new replica ({size}) starts beside the old one, which goes when it is ready"
    free = show_bytes(max(0, int(room.free)))
    short = f"the new one takes {size} and {free} are free beside it"
    if bytes_of(model.replicas[0]) <= room.free:
        short = "its GPUs do not hold both"
    return f"the old replica drains first, for {short}; requests wait meanwhile"


def _size(model: PlannedModel) -> str:
    """What a replica takes; empty for servers that are not ours."""
    size = bytes_of(model.replicas[0])
    return "" if not size else f"{show_bytes(size)} each" if len(model.replicas) > 1 else show_bytes(size)


def others(before: Spec, after: Spec) -> list[str]:
    """What the file changes besides models: names and limits, which hold at once."""
    found = [f"+ alias {name}: {model}" for name, model in after.aliases.items() if name not in before.aliases]
    found += [f"- alias {name}" for name in before.aliases if name not in after.aliases]
    both = {name: model for name, model in before.aliases.items() if name in after.aliases}
    found += [f"~ alias {told}" for told in _differences(both, {name: after.aliases[name] for name in both})]
    limits = ({name: spec.gateway.model_dump(mode="json")[name] for name in LIVE_GATEWAY} for spec in (before, after))
    found += [f"~ gateway.{told}" for told in _differences(*limits)]
    if before.memory_limit != after.memory_limit:
        was, now = (show_bytes(spec.memory_limit) if spec.memory_limit is not None else "auto" for spec in (before, after))
        found.append(f"~ machine.memory {was} → {now}")
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`key was → is` for each key that differs, with the keys of mappings in them as `key.inner`."""
    was, now = dict(_flat(before)), dict(_flat(after))
    keys = [*was, *(key for key in now if key not in was)]
    return [f"{key} {was.get(key, 'left out')} → {now.get(key, 'left out')}" for key in keys if was.get(key) != now.get(key)]


def _flat(value: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a model is: how it is once all is as planned (`so`), what is still to come, or why it does not come by itself."""

    so: str = ""
    coming: str = ""
    failed: str = ""


def standing(name: str, model: PlannedModel | None, replicas: Sequence[Replica]) -> Standing:
    """How far a model is on its way to what is planned; `model` is None for one that is served no more."""
    own = [replica for replica in replicas if replica.model == name]
    wanted = model.replicas if model is not None else ()
    there = [replica for replica in own if replica.placement in wanted and _slots_fit(replica, model)]
    others = [replica for replica in own if replica not in there]
    lost = [one for one in there if one.state is State.FAILED and (one.retry_at is None or isinstance(one.placement, str))]
    if refused := [*lost, *(one for one in others if one.adapting in wanted and one.retry_at is not None)]:
        return Standing(failed=f"{refused[0].name}: {refused[0].reason}")
    if others:
        return Standing(coming=_doing(others[0]))
    least = 0 if model is None else len(wanted) if model.scale is None else min(model.scale.least, len(wanted))
    ready = sum(replica.state is State.READY for replica in there)
    if ready >= least:
        return Standing(so="is gone" if model is None else "is served" if ready else "sleeps until somebody asks")
    late = [replica for replica in there if replica.state is not State.READY]
    return Standing(coming=_doing(late[0]) if late else f"a replica of {name} waits for room in memory")


def _slots_fit(replica: Replica, model: PlannedModel | None) -> bool:
    return not isinstance(replica.placement, str) or model is None or replica.slots == model.slots


def _doing(replica: Replica) -> str:
    if replica.adapting is not None:
        return f"{replica.name} loads adapters"
    if replica.state is State.READY:
        return f"{replica.name} serves as before until then"
    if replica.state is State.STOPPED:
        return f"{replica.name} ends"
    return f"{replica.name} is {replica.state.value}" + (f": {replica.reason}" if replica.reason else "")
