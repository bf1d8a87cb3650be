"""HR1xx: what scales a workload, and who else does."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, Severity, rule
from headrace.lint.context import Context, Object
from headrace.lint.scaled import queries_of, scales_models, triggers

_SPEC = "https://keda.sh/docs/latest/reference/scaledobject-spec/"
_WEBHOOK = "https://github.com/kedacore/keda/blob/main/apis/keda/v1alpha1/scaledobject_webhook.go"
_RESOURCES = ("cpu", "memory")
_LONGEST = 63
"""Characters of a name; KEDA's HPA is called keda-hpa-<name>."""


@rule("HR107", "info", "settings that do nothing above zero replicas", _WEBHOOK)
def idle_settings(context: Context) -> Iterator[Say]:
    """KEDA itself moves a workload between 0 and the first replica only; from 1 on the HPA does. With minReplicaCount of 1 or
    more these keys do nothing."""
    for one in context.of("ScaledObject"):
        least = one.spec.get("minReplicaCount").number or 0
        if least < 1 or one.spec.get("idleReplicaCount").number is not None:
            continue
        cached = any(trigger.get("useCachedMetrics").value is True for trigger in triggers(one))
        names = ("cooldownPeriod",) if cached else ("cooldownPeriod", "pollingInterval")
        found = [one.spec.get(name) for name in names]
        found += [trigger.get("metadata", "activationThreshold") for trigger in triggers(one)]
        for at in found:
            if at.value is not None:
                what = f"{at.path[-1]} does nothing: minReplicaCount is {least}, and KEDA only moves between 0 and 1."
                yield Say(at, what, "Delete it, or let the model sleep with minReplicaCount: 0.", (Edit("delete", at),))


@rule(
    "HR109",
    "warning",
    "no explicit scaling behaviour",
    "https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/horizontal.go",
)
def no_behaviour(context: Context) -> Iterator[Say]:
    """Without `behavior` the HPA may double the replicas at each sync of 15 s, long before a new one has loaded its model, and
    drops to the lowest number in one step after 300 s. Measured: 1 → 4 → 8 → 16 → 20, and 20 → 4 at once."""
    for one in context.of("ScaledObject"):
        if scales_models(context, one) and not one.spec.get("advanced", "horizontalPodAutoscalerConfig", "behavior"):
            yield Say(one.spec, *_behaviour("advanced.horizontalPodAutoscalerConfig.behavior"))
    for one in context.of("HorizontalPodAutoscaler"):
        modern = one.at.get("apiVersion").text in ("autoscaling/v2", "autoscaling/v2beta2")
        if modern and scales_models(context, one) and not one.spec.get("behavior"):
            yield Say(one.spec, *_behaviour("behavior"))


def _behaviour(key: str) -> tuple[str, str]:
    what = "Without behavior it doubles every 15 s, faster than models load, and drops in one step after 300 s."
    return what, f"Write {key} with policies for scaleUp and scaleDown that fit the time to load."


@rule("HR111", "warning", "no fallback for a lost metric", "https://github.com/kedacore/keda/blob/main/pkg/fallback/fallback.go")
def no_fallback(context: Context) -> Iterator[Say]:
    """With ignoreNullValues false a missing metric is an error, which is right: nothing is scaled down. But without `fallback`
    the count is then frozen, however many requests come."""
    for one in context.of("ScaledObject"):
        strict = any(query.metadata.get("ignoreNullValues").text.lower() == "false" for query in queries_of(context, one))
        if strict and one.spec.get("fallback").value is None:
            least = max(1, one.spec.get("minReplicaCount").number or 0)
            value = {"failureThreshold": 3, "replicas": least, "behavior": "currentReplicasIfHigher"}
            what = "When the metric is lost the number of replicas is frozen."
            yield Say(one.spec, what, "Write a fallback.", (Edit("add", one.spec, "fallback", value),))


@rule("HR113", "error", "replicas have two owners", "https://github.com/vllm-project/production-stack/issues/907")
def replicas_owned_twice(context: Context) -> Iterator[Say]:
    """`spec.replicas` in a manifest whose workload an autoscaler scales: every apply sets the count back, and with server-side
    apply it conflicts. Leave it out from the first apply on: taking it out later resets the count once."""
    seen: set[int] = set()
    for scaler in context.of("ScaledObject", "HorizontalPodAutoscaler"):
        target = context.target(scaler)
        count = target.spec.get("replicas") if target else None
        if target and count is not None and count.value is not None and id(target) not in seen:
            seen.add(id(target))
            replicas = f"{count.text} replica{'s' if count.text != '1' else ''}"
            what = f"Every apply sets {target.title} back to {replicas}: {scaler.title} scales it."
            yield Say(count, what, "Leave replicas out.")


@rule("HR114", "error", "two autoscalers on one target", _WEBHOOK)
def two_scalers(context: Context) -> Iterator[Say]:
    """Two HPAs, or two ScaledObjects (each makes an HPA), on one workload undo each other's changes. KEDA's webhook refuses. In
    two files they may be meant as a choice, which one command that applies the folder does not make."""
    first: dict[tuple[str, str, str], Object] = {}
    for scaler in context.of("ScaledObject", "HorizontalPodAutoscaler"):
        reference = scaler.spec.get("scaleTargetRef")
        key = (_place(scaler), reference.get("kind").text or "Deployment", reference.get("name").text)
        if not key[2]:
            continue
        other = first.setdefault(key, scaler)
        if other is not scaler and other.title != scaler.title and not _handed_over(scaler):
            what = f"{other.title} scales {key[1]} {key[2]} as well."
            severity: Severity | None = None if other.at.file == scaler.at.file else "warning"
            yield Say(reference, what, "Apply one of them: it can have several triggers, or metrics.", (), severity)


def _place(scaler: Object) -> str:
    """Namespace and folder: files in other folders may be for another cluster, or the other way to do it."""
    return f"{scaler.namespace} {scaler.at.file.rpartition('/')[0]}"


def _handed_over(scaler: Object) -> bool:
    return scaler.at.get("metadata", "annotations", "scaledobject.keda.sh/transfer-hpa-ownership").text == "true"


@rule("HR116", "error", "what KEDA's webhook refuses", _WEBHOOK)
def refused_by_keda(context: Context) -> Iterator[Say]:
    """Rules of KEDA's admission webhook and of its definition. A cluster without the webhook stores the object, and KEDA then
    fails on it."""
    for one in context.of("ScaledObject"):
        yield from _counts(one)
        yield from _triggers(one)
        yield from _formula(one)
        named = one.spec.get("advanced", "horizontalPodAutoscalerConfig", "name")
        if len(one.name) + len("keda-hpa-") > _LONGEST and not named:
            what = f"The name has {len(one.name)} characters; its HPA, keda-hpa-…, may have {_LONGEST}."
            yield Say(one.at.get("metadata", "name"), what, "Shorten it to 54, or name the HPA.")


def _counts(one: Object) -> Iterator[Say]:
    least, most, idle = (one.spec.get(key) for key in ("minReplicaCount", "maxReplicaCount", "idleReplicaCount"))
    low, high = least.number or 0, most.number if most.number is not None else 100
    if low > high:
        yield Say(least, f"minReplicaCount {low} is above maxReplicaCount {high}.", "Lower it.")
    if idle.number is not None and idle.number >= low:
        yield Say(
            idle, f"idleReplicaCount {idle.number} has to be below minReplicaCount {low}.", "Write 0, with a minimum above."
        )
    for at in (one.spec.get("fallback", "failureThreshold"), one.spec.get("fallback", "replicas")):
        if at.number is not None and at.number < 0:
            yield Say(at, f"{at.path[-1]} is {at.number}, below 0.", "Write a number from 0.")


def _triggers(one: Object) -> Iterator[Say]:
    found = triggers(one)
    if one.spec.value is not None and not found and not _templated(one.spec.get("triggers")):
        yield Say(one.spec.get("triggers"), "There are no triggers: KEDA refuses it.", "Write at least one.")
    names = [trigger.get("name") for trigger in found if trigger.get("name").text]
    for place, name in enumerate(names):
        if name.text in (other.text for other in names[:place]):
            yield Say(name, f"Two triggers are called {name.text}.", "Give each its own name.")
    for trigger in found:
        for key, value in trigger.get("metadata").items():
            if isinstance(value.value, int | float):
                edit = Edit("set", value, "", value.text)
                yield Say(value, f"{key} is {value.text}, and metadata takes texts only.", f'Write "{value.text}".', (edit,))
        if trigger.get("useCachedMetrics").value is True and trigger.get("type").text in (*_RESOURCES, "cron"):
            what = f"useCachedMetrics is not for a {trigger.get('type').text} trigger."
            yield Say(trigger.get("useCachedMetrics"), what, "Delete it.")
    kinds = {trigger.get("type").text for trigger in found}
    if kinds and kinds <= set(_RESOURCES):
        if one.spec.get("minReplicaCount").number == 0:
            what = "cpu and memory cannot wake from 0 replicas: nothing is there to be measured."
            yield Say(one.spec.get("minReplicaCount"), what, "Write 1, or add another trigger.")
        if one.spec.get("fallback"):
            yield Say(one.spec.get("fallback"), "fallback needs a trigger that is neither cpu nor memory.", "Delete it.")


def _templated(at: At) -> bool:
    return "{{" in at.text or "${" in at.text


def _formula(one: Object) -> Iterator[Say]:
    rules = one.spec.get("advanced", "scalingModifiers")
    formula, target = rules.get("formula"), rules.get("target")
    if formula.text and not target.text:
        yield Say(formula, "The formula is given, and its target is not.", "Write a target above 0.")
    if target.text and not formula.text:
        yield Say(target, "The target is given, and its formula is not.", "Write the formula.")
    if one.spec.get("fallback", "behavior").text == "scalingModifiers" and not formula.text:
        yield Say(one.spec.get("fallback", "behavior"), "This behaviour needs a formula.", "Write scalingModifiers.formula.")
    if formula.text and re.fullmatch(r"-?\d+(?:\.\d+)?", target.text) and float(target.text) <= 0:
        yield Say(target, f"The target is {target.text}, and has to be above 0.", "Write a target above 0.")


@rule(
    "HR120",
    "warning",
    "a fallback to zero replicas",
    "https://github.com/kedacore/keda/blob/main/pkg/scaling/executor/scale_scaledobjects.go",
)
def fallback_to_zero(context: Context) -> Iterator[Say]:
    """With `fallback.replicas: 0` KEDA scales the model to zero while the metric cannot be had: an outage of Prometheus becomes
    one of the model."""
    for one in context.of("ScaledObject"):
        count = one.spec.get("fallback", "replicas")
        if count.value is not None and count.number == 0:
            what = "While the metric cannot be had, the model is scaled to zero."
            yield Say(
                count, what, "Write 1 or more.", (Edit("set", count, "", max(1, one.spec.get("minReplicaCount").number or 1)),)
            )
