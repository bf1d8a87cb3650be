"""HR2xx: how replicas start, are known to be ready, and end."""

import re
from collections.abc import Iterator
from math import ceil

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, Severity, rule
from headrace.lint.context import Context, Object
from headrace.lint.gpus import known_model, weights_held
from headrace.lint.serving import Served, engines, sleeps

_VLLM_K8S = "https://docs.vllm.ai/en/latest/deployment/k8s/"
_FASTEST = 2e9
"""Bytes per second from a volume into a GPU, at best: what starts faster is not claimed."""
_OTHER_SECONDS = 20
"""Of a start beside its weights, at best."""
_DEFAULT_GRACE = 30
_TGI_DRAIN = 90
_PATIENCE = 20
"""Seconds of silence that a busy engine's health may have."""
_SHORTEST_ROUTE = 120


def _probe(one: Served, name: str) -> At:
    return one.container.get(name)


def _budget(probe: At) -> int:
    """Seconds until a probe that never succeeds has failed for good."""
    period, failures = probe.get("periodSeconds").number or 10, probe.get("failureThreshold").number or 3
    return (probe.get("initialDelaySeconds").number or 0) + period * failures


def _load_seconds(one: Served) -> int | None:
    """What a start takes at the very least, where the model is known."""
    facts = known_model(one.hub) if one.hub else None
    weights = weights_held(one, facts) if facts else None
    return ceil(weights / _FASTEST / one.split + _OTHER_SECONDS) if weights and one.split else None


def _lasting(context: Context) -> Iterator[Served]:
    return (one for one in engines(context) if one.lives)


@rule("HR201", "error", "nothing waits for the model to load", _VLLM_K8S)
def no_startup(context: Context) -> Iterator[Say]:
    """Loading a model takes minutes. Without a startupProbe (or a readinessProbe) the Service sends requests at once and a
    rollout is done before the model is there; with a budget that is too small the container is killed while it loads, again and
    again."""
    for one in _lasting(context):
        startup, ready = _probe(one, "startupProbe"), _probe(one, "readinessProbe")
        load = _load_seconds(one)
        if startup and load and _budget(startup) < load:
            what = f"The start has {_budget(startup)} s, and loading {one.hub} takes {load} s at the very least."
            fix = f"Write periodSeconds: 10, failureThreshold: {ceil(max(600, 3 * load) / 10)}."
            yield Say(startup, what, fix)
        elif not startup and not ready:
            what = "No probe waits for the model to load: requests come minutes too early, and a rollout is done at once."
            fix = f"Write a startupProbe on {_path(one)} with periodSeconds: 10, failureThreshold: 180."
            yield Say(one.container, what, fix, _added(one, "startupProbe", {"periodSeconds": 10, "failureThreshold": 180}))


def _path(one: Served) -> str:
    return "/v2/health/ready" if one.engine == "triton" else "/health"


@rule(
    "HR202",
    "warning",
    "no readinessProbe",
    "https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/",
)
def no_readiness(context: Context) -> Iterator[Say]:
    """A replica that drains or hangs keeps getting requests: nothing takes it out of the Service."""
    for one in _lasting(context):
        if not _probe(one, "readinessProbe"):
            what = "Without a readinessProbe a replica that hangs keeps getting requests."
            edits = _added(one, "readinessProbe", {"periodSeconds": 5})
            yield Say(one.container, what, f"Write one on {_path(one)} with a short period.", edits)


def _added(one: Served, name: str, rest: dict[str, int]) -> tuple[Edit, ...]:
    """A probe that takes nothing away: where the engine listens has to be certain."""
    port = _port(one)
    if port is None or not one.container.get("name"):
        return ()
    return (Edit("add", one.container, name, {"httpGet": {"path": _path(one), "port": port}, **rest}),)


def _port(one: Served) -> int | None:
    """Where vLLM and SGLang listen, as long as the container's port agrees."""
    port = one.port if one.engine in ("vllm", "sglang") else None
    given = [each.get("containerPort").number for each in one.container.get("ports").each()]
    return port if port and (not given or port in given) and not one.flag("--ssl-keyfile") else None


@rule("HR203", "warning", "vLLM is told to end and drains nothing", "https://github.com/vllm-project/vllm/pull/36666")
def no_drain(context: Context) -> Iterator[Say]:
    """From 0.18 on vLLM aborts its requests at SIGTERM unless --shutdown-timeout says how long they may take. Measured with
    0.32: the clients hang until they give up, without an error."""
    for one in _lasting(context):
        known = one.version is not None and one.version >= (0, 18)
        if one.engine == "vllm" and (known or one.newest) and not one.flag("--shutdown-timeout"):
            what = "At SIGTERM this vLLM aborts what it is answering, and clients hang."
            yield Say(one.model_at, what, "Add --shutdown-timeout 60, and a terminationGracePeriodSeconds above it and preStop.")


@rule(
    "HR204",
    "error",
    "killed before it has drained",
    "https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination",
)
def short_grace(context: Context) -> Iterator[Say]:
    """terminationGracePeriodSeconds (30 unless it is set) holds preStop and the engine's own draining. What is left is cut by
    SIGKILL, in the middle of an answer."""
    for one in _lasting(context):
        pod = one.pod.spec if one.pod else one.container
        grace = pod.get("terminationGracePeriodSeconds")
        have = grace.number if grace.number is not None else _DEFAULT_GRACE
        drain, why = _drain(one)
        need = (sleeps(one.container) or 0) + drain
        if need <= have or not why:
            continue
        at = grace if grace.value is not None else one.container
        said = f"preStop sleeps {sleeps(one.container)} s, {why}" if sleeps(one.container) else why
        severity: Severity | None = "warning" if one.engine == "tgi" and grace.value is None else None
        yield Say(
            at,
            f"It is killed after {have} s, and may need {need} s: {said}.",
            f"Write terminationGracePeriodSeconds: {need + 10}.",
            (),
            severity,
        )


def _drain(one: Served) -> tuple[int, str]:
    """Seconds that an engine drains, and what says so."""
    names = {"vllm": "--shutdown-timeout", "tgi": "--graceful-termination-timeout", "triton": "--exit-timeout-secs"}
    flag = one.flag(names.get(one.engine, ""))
    if flag and flag.number is not None:
        return flag.number, f"{flag.name} {flag.number}"
    if one.engine == "tgi":
        return _TGI_DRAIN, f"TGI drains for up to {_TGI_DRAIN} s"
    return 0, "the sleep" if (sleeps(one.container) or 0) > 0 else ""


@rule(
    "HR205", "warning", "no preStop", "https://github.com/kserve/kserve/blob/master/config/llmisvcconfig/config-llm-template.yaml"
)
def no_pre_stop(context: Context) -> Iterator[Say]:
    """Kubernetes takes a pod out of its Services and sends SIGTERM at the same time: requests still arrive when the engine takes
    none any more. A sleep lets the routes go first. Measured: Triton closes its port at once."""
    for one in _lasting(context):
        if not one.container.get("lifecycle", "preStop"):
            what = "SIGTERM comes while requests are still routed here: some are refused at every rollout and scale-down."
            hook = {"preStop": {"exec": {"command": ["sleep", "10"]}}}
            able = one.engine in ("vllm", "sglang") and one.container.get("lifecycle").value is None and one.container.get("name")
            edits = (Edit("add", one.container, "lifecycle", hook),) if able else ()
            yield Say(one.container, what, "Write lifecycle.preStop with a sleep of 10 s.", edits)


@rule(
    "HR206",
    "warning",
    "a livenessProbe that kills a healthy engine",
    "https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/",
)
def hasty_liveness(context: Context) -> Iterator[Say]:
    """Without a startupProbe the livenessProbe counts while the model is loaded; and a busy engine may be slow to answer. Both
    end in a restart, which loads the model again."""
    for one in _lasting(context):
        alive, startup = _probe(one, "livenessProbe"), _probe(one, "startupProbe")
        if not alive:
            continue
        load = _load_seconds(one)
        if not startup and _budget(alive) < max(120, load or 0):
            what = f"It is killed {_budget(alive)} s after its start, and there is no startupProbe that waits for the model."
            yield Say(alive, what, "Add a startupProbe of 10 s × 180.")
        elif (
            startup
            and (patience := (alive.get("periodSeconds").number or 10) * (alive.get("failureThreshold").number or 3)) < _PATIENCE
        ):
            what = f"It is killed after {patience} s of silence, and a busy engine may take longer to answer."
            yield Say(alive, what, "Write periodSeconds: 10, failureThreshold: 10.")


_SPARE = "headrace/spare-gpus"
"""The annotation by which `headrace render` says that its plan has the GPUs for one replica more."""


@rule(
    "HR207",
    "warning",
    "a rollout that needs more GPUs",
    "https://github.com/kaito-project/kaito/blob/main/website/docs/inference-set.md",
)
def surge(context: Context) -> Iterator[Say]:
    """A RollingUpdate with surge (25 % unless it is said) that may take no old pod away (25 %, rounded down: none of three)
    starts the new one first. Where no GPU is free and none can be added it is Pending, and the rollout never ends."""
    for one in _lasting(context):
        strategy = one.owner.spec.get("strategy")
        if one.owner.kind != "Deployment" or one.pod is None or not one.pod.gpus or strategy.get("type").text == "Recreate":
            continue
        given = strategy.get("rollingUpdate", "maxSurge")
        if given.text in ("0", "0%") or one.owner.at.get("metadata", "annotations").get(_SPARE):
            continue
        count = one.owner.spec.get("replicas").number
        if count == 0 or _unavailable(strategy.get("rollingUpdate", "maxUnavailable").text or "25%", count or 1):
            continue
        extra = _surge(given.text or "25%", count or 1) * one.pod.gpus
        what = f"A rollout needs {extra} more GPU{'s' if extra > 1 else ''} before an old pod ends, and never ends without."
        severity: Severity = "warning" if given.value is not None else "info"
        yield Say(
            given if given.value is not None else one.owner.spec,
            what,
            "Write maxSurge: 0, maxUnavailable: 1, unless a GPU is free or can be added.",
            (),
            severity,
        )


def _unavailable(text: str, replicas: int) -> int:
    """Pods that a rollout may take away before new ones are ready; what is no number is as good as one."""
    number = text.rstrip("%")
    if not number.isdigit():
        return 1
    return replicas * int(number) // 100 if text.endswith("%") else int(number)


def _surge(text: str, replicas: int) -> int:
    number = text.rstrip("%")
    if not number.isdigit():
        return 1
    return ceil(replicas * int(number) / 100) if text.endswith("%") else int(number)


@rule("HR208", "warning", "a route that ends before the answer", "https://github.com/kserve/kserve/issues/892")
def short_route(context: Context) -> Iterator[Say]:
    """A time-out of the way in is for the whole answer: a long one takes minutes, and ends in 502 or 504 in the middle of its
    stream."""
    for one in context.of("HTTPRoute"):
        for each in one.spec.get("rules").each():
            for key in ("request", "backendRequest"):
                at = each.get("timeouts", key)
                seconds = _seconds(at.text)
                if seconds is not None and 0 < seconds < _SHORTEST_ROUTE and _to_model(context, one, each):
                    yield Say(at, *_route(at.text))
    for one in context.of("Ingress"):
        for key in ("proxy-read-timeout", "proxy-send-timeout"):
            at = one.at.get("metadata", "annotations", f"nginx.ingress.kubernetes.io/{key}")
            if (
                at.number is not None
                and 0 < at.number < _SHORTEST_ROUTE
                and key == "proxy-read-timeout"
                and _enters(context, one)
            ):
                yield Say(at, *_route(f"{at.number} s"))


def _route(time: str) -> tuple[str, str]:
    return (
        f"After {time} an answer is cut, also one that is being written.",
        "Write the time of the longest answer, such as 600 s.",
    )


def _seconds(text: str) -> float | None:
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", text)
    if not match or not text:
        return None
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def _to_model(context: Context, route: Object, each: At) -> bool:
    names = [reference.get("name").text for reference in each.get("backendRefs").each()]
    kinds = {reference.get("kind").text for reference in each.get("backendRefs").each()}
    return "InferencePool" in kinds or bool(set(names) & _service_names(context))


def _enters(context: Context, one: Object) -> bool:
    named = {
        path.get("backend", "service", "name").text
        for each in one.spec.get("rules").each()
        for path in each.get("http", "paths").each()
    }
    return bool(named & _service_names(context))


def _service_names(context: Context) -> set[str]:
    """Services in front of engines."""
    labels = [one.pod.labels for one in engines(context) if one.pod is not None]
    return {one.name for each in labels for one in context.selecting("Service", each)}


@rule(
    "HR209",
    "info",
    "one broken model makes Triton not alive",
    "https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_model_repository.html",
)
def strict_liveness(context: Context) -> Iterator[Say]:
    """Triton's /v2/health/ready is 400 when any of its models is not loaded: as a livenessProbe that restarts the server with all
    the others, for ever."""
    for one in engines(context):
        path = _probe(one, "livenessProbe").get("httpGet", "path")
        relaxed = one.flag("--strict-readiness")
        if one.engine == "triton" and path.text == "/v2/health/ready" and not (relaxed and relaxed.value == "false"):
            what = "One model that fails makes the whole server not alive, and it is restarted with all others."
            yield Say(path, what, "Write /v2/health/live, or --strict-readiness=false.")
