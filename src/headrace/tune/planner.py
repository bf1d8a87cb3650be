"""A candidate → what would run, by the same plan as serving makes it: so what is measured is what the lock will start."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.engines.base import Placement
from headrace.engines.llamacpp import RUNTIME_BYTES
from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import lock as locks
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.here import Here
from headrace.plan.memory import fit
from headrace.plan.plan import plan
from headrace.spec.model import Spec
from headrace.tune.base import Candidate
from headrace.units import show_bytes


@dataclass(frozen=True, slots=True)
class Known:
    """Facts and path of one version of the weights."""

    facts: ModelFacts
    path: str


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans `model` of `spec` in any way. `machine` has as much memory free as when nothing of the spec runs; `others` are the
    facts and paths of every model by name, `weights` those of further versions of the weights by source.
    """

    spec: Spec
    model: str
    machine: Machine
    here: Here
    others: Mapping[str, Known]
    weights: Mapping[str, Known]
    artifacts: Mapping[str, Artifact]

    def present(self, lock: locks.Lock | None = None, kept: frozenset[str] = frozenset()) -> PlannedModel:
        """As it is planned now, with the reasons of `lock` for the models that are `kept` as it has them. Raises PlanError."""
        made = self._planned(self.spec, {})
        return self._of(locks.explained(made, lock, kept) if lock else made)

    def planned(self, candidate: Candidate, free_bytes: int) -> PlannedModel | str:
        """One replica of it, or as many as the file fixes; or why the plan cannot take it in `free_bytes` of memory."""
        try:
            found = self.alone(self._of(self.whole(candidate)))
        except PlanError as error:
            return " ".join(str(error).split())
        except (KeyError, ValueError) as error:
            return f"the engine's settings do not allow it: {error}"
        needed = sum(one.memory_bytes for one in found.replicas if isinstance(one, Placement))
        if needed > free_bytes:
            return f"it takes {show_bytes(needed)} by the planner's sum, and {show_bytes(free_bytes)} are free"
        return found

    def comes_as_is(self) -> bool:
        """Whether llama.cpp is here and takes the model's own weights: then it can be compared with as it comes."""
        facts, llamacpp = self.others[self.model].facts, self.here.engines.get("llamacpp")
        return llamacpp is not None and not self.here.missing("llamacpp") and llamacpp.refuse(facts, "generate") is None

    def as_it_comes(self, users: int, free_bytes: int) -> PlannedModel | str:
        """The model for llama.cpp with its own defaults, or why there is no memory for those. It has a queue of its own: so many
        `users` pass the gateway's at once. Its cache is for the longest context of the model, which four slots share.
        """
        facts = self.others[self.model].facts
        found = self.planned(Candidate.of({"engine": "llamacpp", "slots": str(users)}), free_bytes)
        if isinstance(found, str):
            return found
        placements = [one for one in found.replicas if isinstance(one, Placement)]
        memory = fit(facts, facts.context or placements[0].context, 1, "f16", RUNTIME_BYTES)
        if memory.total_bytes * len(placements) > free_bytes:
            return f"with the model's longest context it takes {memory}, and {show_bytes(free_bytes)} are free"
        replicas = tuple(replace(one, memory_bytes=memory.total_bytes) for one in placements)
        return replace(found, replicas=replicas)

    def whole(self, candidate: Candidate) -> Plan:
        """The plan of the whole spec with it. Raises PlanError."""
        source = candidate.values.get("source")
        return self._planned(self.filled(candidate), {self.model: self.weights[source]} if source else {})

    def filled(self, candidate: Candidate) -> Spec:
        """The spec with the candidate's settings in it. Raises KeyError, ValueError."""
        settings = candidate.values
        source = settings.pop("source", None) or self.spec.models[self.model].source
        chosen = {decision.subject: decision.value for decision in self.present().decisions}
        model = locks.filled(self.spec.models[self.model], chosen, settings, source)
        return self.spec.model_copy(update={"models": {**self.spec.models, self.model: model}})

    @staticmethod
    def alone(model: PlannedModel) -> PlannedModel:
        """To be measured: a model that follows its load as one replica, one of a fixed number as it is."""
        return replace(model, replicas=model.replicas[:1], scale=None) if model.scale else model

    def _planned(self, spec: Spec, instead: Mapping[str, Known]) -> Plan:
        known = {**self.others, **instead}
        facts = {name: one.facts for name, one in known.items()}
        paths = {name: one.path for name, one in known.items()}
        return plan(spec, facts, paths, self.machine, self.here, self.artifacts)

    def _of(self, made: Plan) -> PlannedModel:
        model = next(one for one in made.models if one.name == self.model)
        if model.refused:
            raise PlanError(model.refused)
        return model


def settings_of(model: PlannedModel, names: Mapping[str, object]) -> dict[str, str]:
    """What the plan decided of the settings of these names, the engine with them."""
    decided = {decision.subject: decision.value for decision in model.decisions}
    return {name: decided[name] for name in ("engine", *names) if name in decided}


def measured(made: Plan, before: PlannedModel, settings: Mapping[str, str]) -> Plan:
    """`made` with the reasons of what was tuned, and for what stayed those of `before`: "asked for" would hide who asked."""
    reasons = {(one.subject, one.value): one.reason for one in before.decisions}

    def told(one: Decision) -> Decision:
        if settings.get(one.subject) == one.value:
            return replace(one, reason="measured by headrace tune")
        return replace(one, reason=reasons.get((one.subject, one.value), one.reason))

    models = (replace(m, decisions=tuple(map(told, m.decisions))) if m.name == before.name else m for m in made.models)
    return replace(made, models=tuple(models))
