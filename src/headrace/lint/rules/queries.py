"""HR1xx: what triggers ask Prometheus."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from urllib.parse import urlsplit

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, Severity, rule
from headrace.lint.context import Context, Object, texts
from headrace.lint.scaled import OF_PODS, RUNNING, VLLM_METRICS, WAITING, Query, of_models, queries, queries_of, triggers
from headrace.lint.serving import engines, serves
from headrace.spec.sentences import nearest

_KEDA = "https://github.com/kedacore/keda/blob/main/pkg/scalers/prometheus_scaler.go"
_KEYS = (
    *("serverAddress", "query", "threshold", "activationThreshold", "namespace", "customHeaders", "queryParameters"),
    *("ignoreNullValues", "unsafeSsl", "awsRegion", "timeout", "identityOwner", "authModes", "cortexOrgID"),
)
_AGGREGATED = re.compile(
    r"\b(?:sum|avg|max|min|count|group|quantile|stddev|stdvar|scalar|vector|absent|topk|bottomk|count_values|absent_over_time)"
    r"\s*(?:(?:by|without)\s*\([^)]*\)\s*)?\("
)
_PER_SERIES = re.compile(r"\b(?:sum|avg|max|min)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?by\s*\(\s*(?:pod|instance)\s*\)")
_UTILISATION = re.compile(
    r"DCGM_FI_DEV_GPU_UTIL|DCGM_FI_PROF_GR_ENGINE_ACTIVE|nv_gpu_utilization|gpu_utilization|duty_cycle", re.I
)
_SCOPE = re.compile(r"\b(?:namespace|model_name|model|pod|job|service|app|container|instance|deployment|exported_\w+)\s*[=!]")
_MOST = 128
"""TGI's max_concurrent_requests, above which it answers 429."""


@rule("HR101", "error", "a metric that the engine does not export", "https://github.com/volcano-sh/kthena/issues/868")
def misnamed_metric(context: Context) -> Iterator[Say]:
    """vLLM's metrics have a colon after `vllm`. A name that nothing exports is no error in Prometheus: the answer is empty, the
    scaler never fires, and everything looks healthy."""
    recorded = {each.text for one in context.of("PrometheusRule") for each in _records(one)}
    for query in queries(context):
        for name in dict.fromkeys(query.names):
            if name not in recorded and (right := _right(name)):
                fix = f"Write {right}."
                yield Say(query.at, f"No engine exports {name}.", fix, (Edit("replace", query.at, name, right),))
    for one in context.of("InferenceSet"):
        metrics = one.at.get("metadata", "annotations", "scaledobject.kaito.sh/metrics")
        for name in dict.fromkeys(re.findall(r"\bvllm_\w+", metrics.text)):
            if right := _right(name):
                yield Say(metrics, f"No engine exports {name}.", f"Write {right}.", (Edit("replace", metrics, name, right),))


def _records(one: Object) -> Iterator[At]:
    for group in one.spec.get("groups").each():
        for each in group.get("rules").each():
            yield each.get("record")


def _right(name: str) -> str:
    """The name that was meant; "" where it is right, or nobody can know."""
    if not name.startswith(("vllm_", "vllm:")):
        return ""
    rest = name[5:]
    if rest in VLLM_METRICS:
        return f"vllm:{rest}" if name.startswith("vllm_") else ""
    near = get_close_matches(rest, VLLM_METRICS, 1, 0.85 if name.startswith("vllm_") else 0.9)
    return f"vllm:{near[0]}" if near else ""


@rule("HR102", "error", "a query that can return several series", _KEDA)
def several_series(context: Context) -> Iterator[Say]:
    """KEDA takes one number: with a series for each pod it fails with `prometheus query returned multiple elements`, as soon as
    there are two replicas."""
    for query in queries(context):
        bare = not _AGGREGATED.search(query.text) and bool(OF_PODS.search(query.text))
        if bare:
            whole = re.fullmatch(r"[\w:]+(?:\{[^}]*\})?", query.text.strip())
            edits = (Edit("set", query.at, "", f"sum({query.text.strip()})"),) if whole else ()
            what = "The query is not aggregated: with two replicas it has two series, and KEDA refuses it."
            yield Say(query.at, what, f"Write sum({query.text.strip()})." if whole else "Put sum( ) around it.", edits)
        elif _PER_SERIES.search(query.text):
            what = "The query has a series for each pod, and KEDA refuses more than one."
            yield Say(query.at, what, "Sum over all pods: leave out the by (pod).")


@rule("HR103", "error", "a missing metric counts as zero", "https://github.com/llm-d/llm-d-benchmark/issues/1611")
def missing_is_zero(context: Context) -> Iterator[Say]:
    """KEDA's `ignoreNullValues` is true unless it is said otherwise: an empty answer (a typo, a lost scrape, a restarted
    Prometheus) is then the number 0. The model is not scaled out, or scaled in while it works."""
    for query in queries(context):
        given = query.metadata.get("ignoreNullValues")
        if given.text.lower() != "false" and of_models(context, query):
            edit = Edit("set", given, "", "false") if given else Edit("add", query.metadata, "ignoreNullValues", "false")
            at = given if given else query.metadata
            what = "A missing metric counts as 0 here: an outage of Prometheus looks like no load."
            yield Say(at, what, 'Write ignoreNullValues: "false", with a fallback.', (edit,))


@rule("HR104", "warning", "a query without a filter", _KEDA)
def no_filter(context: Context) -> Iterator[Say]:
    """Without a label for the namespace or the model the sum is over every model and tenant that Prometheus knows: each of them
    is scaled by the load of all."""
    for query in queries(context):
        if OF_PODS.search(query.text) and not _SCOPE.search(query.text) and not query.metadata.get("namespace").text:
            what = "The query counts the requests of every model and namespace."
            yield Say(query.at, what, 'Add a filter: {namespace="…", model_name="…"}.')


@rule("HR105", "info", "a key that KEDA ignores", "https://github.com/kedacore/keda/issues/4899")
def unknown_key(context: Context) -> Iterator[Say]:
    """Keys of a prometheus trigger that KEDA does not know are ignored without a word; `metricName` was removed in 2.12. A typo
    in a key that matters is such a key as well."""
    for one in context.of("ScaledObject", "ScaledJob"):
        for trigger in triggers(one):
            if trigger.get("type").text != "prometheus":
                continue
            for key, value in trigger.get("metadata").items():
                if key == "metricName":
                    what = "metricName is ignored since KEDA 2.12: the metric is called s0-prometheus."
                    yield Say(value, what, "Delete it.", (Edit("delete", value),))
                elif key not in _KEYS:
                    near = nearest(key, _KEYS)
                    severity: Severity | None = "warning" if near else None
                    yield Say(
                        value, f"KEDA's prometheus trigger has no key {key}, and ignores it.", near or "Delete it.", (), severity
                    )


@rule(
    "HR106",
    "warning",
    "scaling on waiting requests alone",
    "https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/",
)
def waiting_alone(context: Context) -> Iterator[Say]:
    """The autoscaler asks for waiting / threshold replicas. As soon as they have taken the queue in, nothing waits, and it asks
    for one: while all are busy. The count goes up and down like a saw."""
    for one in context.of("ScaledObject"):
        asked = queries_of(context, one)
        if len(triggers(one)) == 1 and len(asked) == 1 and _waiting_alone(asked[0]):
            yield Say(asked[0].at, *_SAW)
    for one in context.of("HorizontalPodAutoscaler"):
        metrics = list(one.spec.get("metrics").each())
        for kind in ("pods", "external", "object") if len(metrics) == 1 else ():
            metric = metrics[0].get(kind)
            name, average = metric.get("metric", "name"), metric.get("target", "type").text == "AverageValue"
            if average and WAITING.search(name.text):
                yield Say(name, *_SAW)


_SAW = (
    "Waiting requests alone propose 1 replica as soon as the queue is taken in, while all are busy.",
    "Sum waiting and running requests, with the concurrency of a replica as the threshold.",
)


def _waiting_alone(query: Query) -> bool:
    average = query.trigger.get("metricType").text in ("", "AverageValue")
    return average and bool(WAITING.search(query.text)) and not RUNNING.search(query.text)


@rule(
    "HR108",
    "error",
    "sleeping on a metric that sleeps too",
    "https://keda.sh/docs/latest/reference/scaledobject-spec/#minreplicacount",
)
def never_wakes(context: Context) -> Iterator[Say]:
    """At zero replicas nothing exports the engine's metric: it is missing, so nothing ever wakes the model. What counts requests
    in front of the engine has to be asked: a gateway's queue."""
    for one in context.of("ScaledObject"):
        least = one.spec.get("minReplicaCount")
        zero = least.number == 0 or (not least and least.value is None) or one.spec.get("idleReplicaCount").number == 0
        asked = queries_of(context, one)
        if not zero or not asked or len(asked) < len(triggers(one)):
            continue
        if all(_of_pods_alone(query) for query in asked):
            at = least if least.value is not None else one.spec
            name = next(iter(OF_PODS.findall(asked[0].text)))
            said = "minReplicaCount is 0" + ("" if least.value is not None else " (KEDA's default)")
            what = f"{said}, and {name} is exported by the pods themselves: with none left nothing wakes the model."
            yield Say(at, what, "Ask the gateway's queue, or write minReplicaCount: 1.")


def _of_pods_alone(query: Query) -> bool:
    names = query.names
    known = bool(names) and all(re.fullmatch(r"(?:vllm[:_]|sglang[:_]|tgi_|nv_inference_).*", name) for name in names)
    return known and not re.search(r"router|gateway|incoming|ingress", query.text)


@rule("HR110", "warning", "a short host name for Prometheus", "https://keda.sh/docs/latest/scalers/prometheus/")
def short_host(context: Context) -> Iterator[Say]:
    """KEDA asks Prometheus, from its own namespace: a name without one is looked up there."""
    for one in context.of("ScaledObject", "ScaledJob"):
        for trigger in triggers(one):
            address = trigger.get("metadata", "serverAddress")
            try:
                host = urlsplit(address.text).hostname or ""
            except ValueError:
                continue
            if trigger.get("type").text == "prometheus" and re.fullmatch(r"[a-z][a-z0-9-]*", host):
                what = f"{host} is looked up in KEDA's namespace, not in that of the ScaledObject."
                yield Say(address, what, f"Write {host}.NAMESPACE.svc.")


@rule("HR112", "warning", "scaling on utilisation", "https://llm-d.ai/docs/architecture")
def utilisation(context: Context) -> Iterator[Say]:
    """A GPU that serves a language model is busy nearly all the time, however short the queue: the number says nothing of what
    waits. The CPU beside it says even less: it is idle while the GPU works."""
    for query in queries(context):
        if match := _UTILISATION.search(query.text):
            yield Say(query.at, f"{match[0]} stays near 100 % however short the queue.", "Scale on requests that wait and run.")
    for one in context.of("HorizontalPodAutoscaler"):
        for metric in one.spec.get("metrics").each():
            if match := _UTILISATION.search(str(metric.value)):
                yield Say(metric, f"{match[0]} stays near 100 % however short the queue.", "Scale on requests that wait and run.")
    yield from _by_cpu(context)


def _by_cpu(context: Context) -> Iterator[Say]:
    """What scales a model on GPUs by nothing but CPU or memory."""
    for one in context.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = context.target(one)
        if target is None or not serves(context, target) or not any(pod.gpus for pod in context.pods_of(target)):
            continue
        named = [metric.get("resource", "name") for metric in one.spec.get("metrics").each()]
        named += [trigger.get("type") for trigger in triggers(one)]
        if named and all(name.text in ("cpu", "memory") for name in named):
            what = f"{target.title} serves on GPUs, and its {named[0].text} says nothing of what waits for them."
            yield Say(named[0], what, "Scale on requests that wait and run.")


@rule(
    "HR115",
    "warning",
    "a metric that nothing scrapes",
    "https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor",
)
def not_scraped(context: Context) -> Iterator[Say]:
    """The query asks for a metric of the engine, and nothing among these files brings it to Prometheus: no PodMonitor, no
    ServiceMonitor, no annotation."""
    for query in queries(context):
        target = context.target(query.scaler)
        if target is None or not OF_PODS.search(query.text) or not serves(context, target):
            continue
        if not _scraped(context, target):
            what = f"Nothing among these files scrapes {target.title}, so the query has no answer."
            yield Say(query.at, what, "Add a PodMonitor that selects its pods by a named port.")


def _scraped(context: Context, target: Object) -> bool:
    pods = context.pods_of(target)
    labels = pods[0].labels if pods else {}
    if any(pod.template.get("metadata", "annotations", "prometheus.io/scrape").text == "true" for pod in pods):
        return True
    services = context.selecting("Service", labels)
    if any(one.at.get("metadata", "annotations", "prometheus.io/scrape").text == "true" for one in services):
        return True
    chosen = [labels, *(texts(one.at.get("metadata", "labels")) for one in services)]
    kinds = ("PodMonitor", "ServiceMonitor")
    if any(context.selecting(kind, each) for kind in kinds for each in chosen) or context.once("wide", lambda: _wide(context)):
        return True
    return any("scrape_configs" in str(one.at.get("data").value) for one in context.of("ConfigMap"))


def _wide(context: Context) -> bool:
    """Whether a monitor selects in a way that is not followed here, or everything."""
    monitors = context.of("PodMonitor", "ServiceMonitor")
    return any(
        one.spec.get("selector", "matchExpressions") or not one.spec.get("selector", "matchLabels").value for one in monitors
    )


@rule(
    "HR117",
    "warning",
    "metricType: Value",
    "https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/replica_calculator.go",
)
def value_metric(context: Context) -> Iterator[Say]:
    """With `Value` the autoscaler multiplies by the pods that are ready. A set whose replicas still load models has few of
    them, and is shrunk while it starts."""
    for query in queries(context):
        kind = query.trigger.get("metricType")
        if kind.text == "Value" and of_models(context, query) and not query.scaler.spec.get("advanced", "scalingModifiers"):
            what = "metricType: Value multiplies by ready pods: a set that is loading is shrunk."
            yield Say(kind, what, "Write AverageValue, with a threshold per replica.")


@rule(
    "HR118",
    "error",
    "Triton's queue does not count what its LLM back ends hold",
    "https://github.com/triton-inference-server/server/issues/8463",
)
def blind_queue(context: Context) -> Iterator[Say]:
    """vLLM and TensorRT-LLM take requests in as they come: Triton's own queue is empty however many they hold. Measured: 0 with 8
    requests in flight."""
    llm = [one for one in engines(context) if one.engine == "triton" and re.search(r"vllm|trtllm", one.image.text)]
    for query in queries(context):
        name = re.search(r"nv_inference_(?:pending_request_count|queue_duration_us)", query.text)
        target = context.target(query.scaler)
        about = target is not None and any(one.owner is target for one in llm)
        if name and (about or re.search(r"vllm|llama|mistral|qwen|gpt|ensemble|tensorrt_llm|trtllm", query.text, re.I)):
            yield Say(
                query.at, f"{name[0]} stays 0 while vLLM or TensorRT-LLM hold the requests.", "Scale on the gateway's count."
            )


@rule(
    "HR119",
    "warning",
    "a threshold that TGI never reaches",
    "https://github.com/huggingface/text-generation-inference/blob/main/launcher/src/main.rs",
)
def tgi_threshold(context: Context) -> Iterator[Say]:
    """TGI answers 429 above max_concurrent_requests, 128 unless it is set: a threshold near it scales after clients were
    refused."""
    for query in queries(context):
        threshold = query.metadata.get("threshold")
        if "tgi_queue_size" in query.text and (threshold.number or 0) >= _MOST * 3 // 4:
            what = f"TGI refuses requests above {_MOST} at once, so a queue of {threshold.text} is never seen."
            yield Say(threshold, what, "Write a threshold well below 128 less the batch, such as 20.")
