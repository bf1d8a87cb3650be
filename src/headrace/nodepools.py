"""`headrace nodepool`: the machines that a file's models need in a cluster, as commands for AKS or objects for Karpenter."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.elsewhere import Question, intents_of
from headrace.errors import PlanError, UsageError
from headrace.facts import catalogue, request
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.learned import knowledge
from headrace.plan import sharing
from headrace.plan.consider import consider
from headrace.plan.fleet import Member
from headrace.plan.intent import wanted
from headrace.plan.nodepool import NodePool, whole
from headrace.plan.offer import Considered, Knowledge, Offer, cheapest
from headrace.plan.sharing import SHARED
from headrace.planning import facts_of, without
from headrace.prepare import cache_of
from headrace.spec.kubernetes import taint
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.manifests.manifests import dumped
from headrace.targets.nodepool import aks, karpenter
from headrace.targets.nodepool.base import SPOT_TAINT, Ask, reasons
from headrace.targets.sharing import budget
from headrace.targets.sharing.device_plugin import How
from headrace.targets.sharing.wiring import OPERATOR, Wiring, wiring
from headrace.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks: for which machines, whether GPUs are shared and how, what of the machines, and as what."""

    machine: str | None = None
    sharing: How | None = None
    spot: bool = False
    zones: tuple[str, ...] = ()
    karpenter: bool = False
    offline: bool = False


def nodepools(spec: Spec, wish: Wish, terminal: Terminal) -> str:
    """The script, or the objects; what does not add up is said on the terminal. Raises HeadraceError."""
    machines, members = _machines(spec, wish), _members(spec, wish, terminal)
    known = knowledge(cache_of(spec).root)
    shared = wish.sharing or (spec.kubernetes.sharing if any(m.wanted.share in SHARED for m in members.values()) else None)
    ask = Ask(spec.kubernetes.nodes.taints, spec.kubernetes.nodes.labels, spot=wish.spot, zones=wish.zones)
    if shared is None:
        pools = _capped(whole(_offers(spec, members, machines, known), _ranges(spec)), machines, terminal)
        return _karpenter(pools, ask) if wish.karpenter else aks.commands(pools, ask) + _plugin_hint()
    pools = sharing.shared(_at_most(spec, members), machines, known).pools
    for pool in pools:
        for problem in budget.problems(pool, pools, shared):
            terminal.say(f"! {pool.name}: {problem}")
    tolerated = (*ask.taints, SPOT_TAINT) if wish.spot else ask.taints
    wired = wiring(pools, shared, [taint(text) for text in tolerated], aks=not wish.karpenter)
    ask = replace(ask, own=wired.labels)
    if wish.karpenter:
        return _karpenter(pools, ask) + _objects(pools, wired, shared)
    return aks.commands(pools, ask) + "\n" + _sharing(pools, wired, shared)


def _machines(spec: Spec, wish: Wish) -> tuple[Machine, ...]:
    """Those asked about, else every size of Azure; all can be rented."""
    asked = wish.machine or spec.elsewhere or "azure"
    try:
        machines = request.machine(asked, catalogue.gpus(), catalogue.every_sku())
    except ValueError as error:
        raise UsageError(f"{'--machine' if wish.machine else 'machine'}: {error}") from None
    if any(machine.sku is None for machine in machines):
        raise UsageError(f"{asked} is no machine that can be rented.", "Name a size: azure:Standard_NC24ads_A100_v4.")
    return machines


def _members(spec: Spec, wish: Wish, terminal: Terminal) -> dict[str, Member]:
    """Models with weights; what the gateway only forwards to needs no machine."""
    languages = {name for name, model in spec.models.items() if model.source and _on_gpus(model)}
    if left := [name for name, model in spec.models.items() if model.source and name not in languages]:
        terminal.say(f"No GPUs are planned for {', '.join(left)}.")
    for name in sorted(languages & set(spec.kubernetes.split)):
        count = spec.kubernetes.split[name]
        terminal.say(f"{name} is split over {count} machines for each replica: they are not among these.")
    languages -= set(spec.kubernetes.split)
    if not languages:
        raise UsageError(
            "No model here needs machines with GPUs that this command counts.", "headrace plan says what each needs."
        )
    asked = without(spec, set(spec.models) - languages)
    intents = intents_of(asked, Question(machine=wish.machine, offline=wish.offline))
    facts = facts_of(asked, ("safetensors", "gguf"), terminal, offline=wish.offline)
    return {name: Member(known, intents[name], wanted(spec.models[name])) for name, known in facts.items()}


def _on_gpus(model: ModelSpec) -> bool:
    return model.engine_name not in ("llamacpp", "openvino", "custom") and model.task != "infer"


def _at_most(spec: Spec, members: dict[str, Member]) -> dict[str, Member]:
    """Packed are as many replicas as there may be."""
    most = {name: range_[1] for name, range_ in _ranges(spec).items()}
    return {n: replace(m, wanted=replace(m.wanted, replicas=most[n])) if n in most else m for n, m in members.items()}


def _ranges(spec: Spec) -> dict[str, tuple[int, int]]:
    return {name: model.scale.replicas for name, model in spec.models.items() if model.scale.replicas}


def _offers(spec: Spec, members: dict[str, Member], machines: Sequence[Machine], known: Knowledge) -> dict[str, Offer]:
    """The best way for each model: on the machines that are named, else on the cheapest."""
    found: dict[str, Offer] = {}
    wrong: list[str] = []
    different = [machine for place, machine in enumerate(machines) if machine not in machines[:place]]
    for name, member in members.items():
        range_ = spec.models[name].scale.replicas
        # As `headrace render` does: in a range, replicas are each planned for as much as the fewest together take.
        open_ = replace(member.wanted, replicas="auto") if range_ else member.wanted
        count = range_[1] if range_ else 1
        considered = [consider(member.facts, m, member.intent, known, open_, max(machines.count(m), count)) for m in different]
        if best := cheapest([_as_it_is(one, member.facts) for one in considered]):
            found[name] = best[0]
        else:
            reasons = [rejected.reason for one in considered for rejected in one.rejected]
            wrong.append(f"models.{name}: {reasons[-1] if reasons else 'no machine has a GPU for it'}")
    if wrong:
        raise PlanError("\n".join(wrong), "Ask for less, or for other machines.")
    return found


def _as_it_is(considered: Considered, facts: ModelFacts) -> Considered:
    """Without ways that need another checkpoint than the one named: AWQ is made before, not at load."""
    sayable = tuple(o for o in considered.offers if o.quantization.name != "awq" or facts.quantization == "awq")
    return replace(considered, offers=sayable)


def _capped(pools: Sequence[NodePool], machines: Sequence[Machine], terminal: Terminal) -> tuple[NodePool, ...]:
    """No more machines than were named; where that is too few, it is said."""
    named = Counter(machine.sku.name for machine in machines if machine.sku)
    made = []
    for pool in pools:
        most = named[pool.sku.name]
        if len(named) == 1 and most > 1 and pool.most > most:
            terminal.say(f"! {pool.name}: {pool.most} machines of {pool.sku.name} would be needed, and there are {most} at most.")
            made.append(replace(pool, least=min(pool.least, most), most=most))
        else:
            made.append(pool)
    return tuple(made)


def _plugin_hint() -> str:
    return (
        "\n# Nodes advertise nvidia.com/gpu only where NVIDIA's device plugin tolerates their taints;\n"
        "# headrace nodepool FILE --sharing prints how its chart is told, for whole GPUs as well.\n"
    )


def _karpenter(pools: Sequence[NodePool], ask: Ask) -> str:
    blocks = []
    for pool in pools:
        said = [*reasons(pool), "Karpenter adds machines for pods that wait, and takes away those that are empty."]
        blocks.append("".join(f"# {aks.comment(line)}\n" for line in said) + dumped(karpenter.manifest(pool, ask)))
    return "---\n".join(blocks)


def _sharing(pools: Sequence[NodePool], wired: Wiring, how: How) -> str:
    """The part of the script that shares the GPUs."""
    chart = wired.chart
    version = chart.version or '"${VERSION:?of the chart gpu-operator}"'
    return "\n".join(
        [
            "# How the GPUs are shared, as packed:",
            *_arithmetic(pools, how),
            "",
            f"kubectl create namespace {chart.namespace} --dry-run=client -o yaml | kubectl apply -f -",
            *(f"kubectl apply --server-side -f - <<'YAML'\n{dumped(each)}YAML" for each in wired.objects),
            "# A ConfigMap does nothing until the chart is told its name; without tolerations its pods do not reach the nodes.",
            f"helm upgrade --install {chart.name} {chart.name} --repo {chart.repository} --version {version} \\",
            f"  --namespace {chart.namespace} --values - <<'YAML'\n{dumped(wired.values)}YAML",
            *(["# Nodes are cut when they are labelled nvidia.com/mig.config.state=success."] if chart is OPERATOR else []),
            "",
        ]
    )


def _arithmetic(pools: Sequence[NodePool], how: How) -> Iterator[str]:
    for pool in pools:
        yield f"# {pool.name}: {budget.isolation(pool, how)}"
        yield from (f"#   {aks.comment(line)}" for line in budget.arithmetic(pool, pools))


def _objects(pools: Sequence[NodePool], wired: Wiring, how: How) -> str:
    """The ConfigMaps as documents; the chart's values, which are no object, in comments."""
    said = [*_arithmetic(pools, how), f"# Values of the chart {wired.chart.name}, without which ConfigMaps do nothing:"]
    lines = [*said, *(f"#   {line}" for line in dumped(wired.values).splitlines())]
    return "".join(f"---\n{dumped(each)}" for each in wired.objects) + "".join(f"{line}\n" for line in lines)
