"""What administrators ask of the number of replicas: a wish per model, within what the plan allows, and the plan with it.

The last wish for a model counts. Only the control loop reads wishes, and only it changes replicas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.plan.plan import Plan, PlannedModel
from headrace.traffic import Load

AUTO, ASLEEP, STOPPED = "auto", "asleep", "stopped"


@dataclass(frozen=True, slots=True)
class Wish:
    """`want` is a number of replicas to hold, or one of `auto` (as the plan and the load say), `asleep` (none until somebody
    asks) and `stopped` (none until an administrator starts it).
    """

    model: str
    want: str
    by: str

    @property
    def words(self) -> str:
        """One sentence of what was asked for."""
        if self.want == AUTO:
            return f"follows plan and load again, as {self.by} asked"
        if self.want == ASLEEP:
            return f"put to sleep by {self.by} until somebody asks for it"
        if self.want == STOPPED:
            return f"stopped by {self.by} until it is started again"
        return f"held at {self.want} replica{'' if self.want == '1' else 's'} by {self.by}"


def choices(model: PlannedModel) -> list[tuple[str, str]]:
    """What may be asked of a model: (want, in words); nothing of one that cannot be served."""
    if model.refused or not model.replicas:
        return []
    most = len(model.replicas)
    auto = "as many replicas as the load needs" if model.scale else f"{_count(most)}, as planned"
    numbers = range(1, most + 1) if model.scale else range(1, most)
    counts = [(str(number), f"{_count(number)}, whatever the load") for number in numbers]
    sleeps = [(ASLEEP, "none until somebody asks")] if model.sleeps else []
    return [(AUTO, auto), *counts, *sleeps, (STOPPED, "none: stopped until it is started here again")]


def refused(model: PlannedModel | None, want: str) -> str:
    """Why this cannot be asked for; nothing when it can."""
    if model is None:
        return "It is not planned yet."
    allowed = [value for value, _ in choices(model)]
    if want in allowed:
        return ""
    if not allowed:
        return f"{model.name} cannot be served here: {model.refused or 'it has no replicas'}"
    return f'"{want[:40]}" cannot be asked of {model.name}, only: {", ".join(allowed)}.'


def current(wishes: Mapping[str, Wish], plan: Plan, loads: Mapping[str, Load]) -> dict[str, Wish]:
    """Those that still stand: the model is planned, allows it, and if it is to sleep nobody asks for it."""
    planned = {model.name: model for model in plan.models}
    return {
        name: wish
        for name, wish in wishes.items()
        if wish.want != AUTO
        and not refused(planned.get(name), wish.want)
        and not (wish.want == ASLEEP and name in loads and loads[name].waiting)
    }


def held(plan: Plan, wishes: Mapping[str, Wish]) -> Plan:
    """The plan as it is wished for."""
    if not wishes:
        return plan
    return replace(plan, models=tuple(_held(model, wishes.get(model.name)) for model in plan.models))


def asleep(wishes: Mapping[str, Wish]) -> dict[str, int]:
    """The number of replicas of those that shall sleep: none."""
    return {name: 0 for name, wish in wishes.items() if wish.want == ASLEEP}


def _held(model: PlannedModel, wish: Wish | None) -> PlannedModel:
    if wish is None or wish.want == ASLEEP:
        return model
    if wish.want == STOPPED:
        return replace(model, replicas=(), refused=wish.words)
    count = int(wish.want)
    scale = None if model.scale is None else replace(model.scale, least=count)
    return replace(model, replicas=model.replicas[:count], scale=scale)


def _count(number: int) -> str:
    return f"{number} replica" if number == 1 else f"{number} replicas"
