"""Prometheus series → looks and requests: counters that begin again, histograms that are cumulative, pods of a workload.

A series that is missing is unknown, never zero: only kube-state-metrics, which tells of workloads without pods, says that nothing
runs.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from headrace.advice.base import Prefixes, Request, Sample
from headrace.advice.metric_names import ENGINES, GATEWAY, MOST, READY, SLOTS, STATE, WANTED, Names

Points = Mapping[float, float]
"""Values by time, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series over the window, without its name among the labels."""

    name: str
    labels: Mapping[str, str]
    points: Points


FULL = 0.95
_REST_OF_A_POD = re.compile(r"(-[bcdfghjklmnpqrstvwxz2-9]{5,10})?-([bcdfghjklmnpqrstvwxz2-9]{5}|\d+)")
"""After the name of a Deployment or StatefulSet (apimachinery's rand.SafeEncodeString leaves vowels out)."""
_WORKLOAD = {READY[0]: "deployment", READY[1]: "statefulset", MOST[0]: "horizontalpodautoscaler"}


@dataclass(frozen=True, slots=True)
class Told:
    """What the series tell of one model."""

    engine: str = ""
    samples: tuple[Sample, ...] = ()
    requests: tuple[Request, ...] = ()
    short_of_memory: tuple[float, ...] | None = None
    """None where no engine tells of its cache."""
    prefixes: tuple[Prefixes, ...] = ()
    slots: int | None = None
    most: int | None = None
    gateway: bool = False
    """Whether a gateway of ours is in front of it."""


@dataclass(frozen=True, slots=True)
class Page:
    """All series of a window; `times` are the looks, in order."""

    series: Sequence[Series]
    times: Sequence[float]
    _by_name: dict[str, list[Series]] = field(default_factory=dict)

    def of(self, names: Iterable[str], model: str, label: str) -> list[Series]:
        """The series of the first name that has any of the model; without a label, those of pods called like it."""
        if not self._by_name:
            for one in self.series:
                self._by_name.setdefault(one.name, []).append(one)
        for name in names:
            if found := [one for one in self._by_name.get(name, ()) if _is_of(one, model, label)]:
                return found
        return []

    def models(self) -> dict[str, str]:
        """The engine of each model that is told of, by name."""
        found: dict[str, str] = {}
        for names in (*ENGINES, GATEWAY):
            for one in self.series:
                if names.label and one.name in names.waiting and one.labels.get(names.label):
                    found.setdefault(one.labels[names.label], "" if names is GATEWAY else names.engine)
        return found


def told(page: Page, model: str, workload: str = "", served: Sequence[str] = ()) -> Told:
    """Everything on one model. `workload` is the name of its Deployment, `served` are the names that its engine has for it."""
    called = next((name for name in (model, *served) if _engine(page, name, workload)), model)
    names = _engine(page, called, workload)
    gateway = bool(page.of(GATEWAY.waiting, model, GATEWAY.label))
    ours = _Of(page, GATEWAY, model)
    theirs = _Of(page, names, called if names.label else workload or model) if names else None
    first = ours if gateway else theirs
    if first is None:
        return Told()
    ready = _ready(page, model, workload or model, theirs, gateway=gateway)
    made = (theirs.grown("generated") if theirs else {}) or first.grown("generated")
    samples = tuple(_samples(page.times, first.total("waiting"), first.total("running"), ready, made))
    finished = first.grown("finished") or (theirs.grown("finished") if theirs else {})
    requests = tuple(_once(_lengths(page, names, theirs, finished), _waits(ready, finished)))
    short = tuple(_short(theirs, samples)) if theirs and (theirs.series("usage") or theirs.series("put_out")) else None
    shares = tuple(_prefixes(page.times, ours, theirs)) if theirs and gateway else ()
    slots, most = _slots(page, model), _most(page, workload or model)
    return Told(names.engine if names else "", samples, requests, short, shares, slots, most, gateway)


def increases(points: Points) -> dict[float, float]:
    """What a counter grew by until each look after the first; after a restart it counts from zero."""
    ordered = sorted(points.items())
    return {at: value if value < before else value - before for (_, before), (at, value) in pairwise(ordered)}


def added(each: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """The sum of several at each time at which there is any."""
    found: dict[float, float] = {}
    for points in each:
        for at, value in points.items():
            found[at] = found.get(at, 0.0) + value
    return found


@dataclass(frozen=True, slots=True)
class _Of:
    """The series of one model under an engine's names."""

    page: Page
    names: Names
    model: str

    def series(self, what: str) -> list[Series]:
        return self.page.of(getattr(self.names, what), self.model, self.names.label)

    def total(self, what: str) -> dict[float, float]:
        return added(one.points for one in self.series(what))

    def highest(self, what: str) -> dict[float, float]:
        found: dict[float, float] = {}
        for one in self.series(what):
            for at, value in one.points.items():
                found[at] = max(value, found.get(at, value))
        return found

    def grown(self, what: str) -> dict[float, float]:
        return added(increases(one.points) for one in self.series(what))

    def buckets(self, name: str) -> dict[float, dict[float, float]]:
        """Cumulative counts that were added, by upper bound and time."""
        found: dict[float, list[Mapping[float, float]]] = {}
        for one in self.page.of((f"{name}_bucket",), self.model, self.names.label):
            found.setdefault(float(one.labels.get("le", "inf").replace("+Inf", "inf")), []).append(increases(one.points))
        return {bound: added(each) for bound, each in found.items()}


def _engine(page: Page, model: str, workload: str) -> Names | None:
    for names in ENGINES:
        if page.of(names.waiting, model if names.label else workload or model, names.label):
            return names
    return None


def _is_of(one: Series, model: str, label: str) -> bool:
    """Series of the cluster are of a workload; of engines without a label, of the pods of one."""
    if one.name in _WORKLOAD:
        known = one.labels.get(_WORKLOAD[one.name], "")
        return known in (model, f"keda-hpa-{model}")
    if label:
        return one.labels.get(label) == model
    if pod := _pod(one):
        return pod.startswith(model) and bool(_REST_OF_A_POD.fullmatch(pod, len(model)))
    places = (one.labels.get(key, "") for key in ("service", "job", "app", "container"))
    return any(place.rpartition("/")[2] == model for place in places)


def _pod(one: Series) -> str:
    return one.labels.get("pod") or one.labels.get("kubernetes_pod_name") or ""


def _ready(page: Page, model: str, workload: str, theirs: _Of | None, *, gateway: bool) -> dict[float, float]:
    """How many replicas were ready, by the cluster, the gateway, or the engines that answered at all."""
    if cluster := page.of(READY, workload, ""):
        return added(one.points for one in cluster)
    if gateway and (known := _by_gateway(page, model)):
        return known
    pods: dict[str, set[float]] = {}
    for one in theirs.series("waiting") if theirs else ():  # the ranks of one pod are one replica
        pods.setdefault(_pod(one) or one.labels.get("instance", ""), set()).update(one.points)
    return added(dict.fromkeys(times, 1.0) for times in pods.values())


def _by_gateway(page: Page, model: str) -> dict[float, float]:
    """Replicas that are ready; of one that is not wanted there are none to tell of."""
    replicas: dict[str, dict[float, float]] = {}
    for one in page.of((STATE,), model, "model"):
        if one.labels.get("state") == "ready":  # every gateway tells of every replica
            known = replicas.setdefault(one.labels.get("replica", ""), {})
            known.update({at: max(value, known.get(at, 0.0)) for at, value in one.points.items()})
    wanted = page.of((WANTED,), model, "model")
    return {at: 0.0 for one in wanted for at, value in one.points.items() if value == 0} | added(replicas.values())


def _samples(times: Iterable[float], waiting: Points, running: Points, ready: Points, made: Points) -> Iterator[Sample]:
    for at in times:
        if at in waiting or at in running or at in ready:
            yield Sample(at, waiting.get(at), running.get(at), ready.get(at), made.get(at))


def _lengths(page: Page, names: Names | None, theirs: _Of | None, finished: Points) -> Iterator[Request]:
    """Requests as the histograms of lengths know them: the longest prompts taken to have the longest answers, and each as long as
    its bucket goes, so that no length is understated; without histograms requests of unknown lengths.
    """
    prompts = theirs.buckets(names.prompts) if names and theirs and names.prompts else {}
    answers = theirs.buckets(names.answers) if names and theirs and names.answers else {}
    for at in page.times:
        first, second = _counts(prompts, at), _counts(answers, at)
        if first and second:
            yield from (Request(at, 200, int(a), int(b), 0.0, count) for a, b, count in _paired(first, second))
        elif finished.get(at):
            yield Request(at, 200, None, None, 0.0, finished[at])


def _counts(buckets: Mapping[float, Mapping[float, float]], at: float) -> list[tuple[float, float]]:
    """(length, how many) by bucket; what is beyond the last bound counts as twice as long."""
    found, before = [], 0.0
    finite = max((bound for bound in buckets if bound != float("inf")), default=0.0)
    for bound in sorted(buckets):
        upto = buckets[bound].get(at, 0.0)
        if upto > before:
            found.append((2 * finite if bound == float("inf") else bound, upto - before))
            before = upto
    return found


def _paired(first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    """Both in order, put beside each other, as far as both go."""
    ones, others = [list(one) for one in first], [list(one) for one in second]
    while ones and others:
        count = min(ones[0][1], others[0][1])
        yield ones[0][0], others[0][0], count
        for rows in (ones, others):
            rows[0][1] -= count
            if rows[0][1] <= 1e-9:
                rows.pop(0)


def _once(ended: Iterable[Request], woke: Iterable[Request]) -> Iterator[Request]:
    """Each request once: who waited for a start is among those that ended after it."""
    starts = deque(woke)
    for one in ended:
        left = one.count
        while starts and starts[0].at < one.at and left > 0:
            start = starts.popleft()
            waited = min(start.count, left)
            left -= waited
            yield replace(one, at=start.at, waited=start.waited, count=waited)
        if left > 0:
            yield replace(one, count=left)
    yield from starts


def _waits(ready: Points, finished: Points) -> Iterator[Request]:
    """Starts that somebody waited for: one request at least for each time that replicas came where none were."""
    known = sorted(ready.items())
    for (at, before), (later, now) in pairwise(known):
        if before == 0 and now > 0:
            yield Request(at, 200, None, None, later - at, min(1.0, finished.get(later, 1.0) or 1.0))


def _short(theirs: _Of, samples: Sequence[Sample]) -> Iterator[float]:
    """When the cache was full while requests waited, or requests were put out of it."""
    usage, put_out = theirs.highest("usage"), theirs.grown("put_out")
    for one in samples:
        if put_out.get(one.at, 0) > 0 or (usage.get(one.at, 0) >= FULL and (one.waiting or 0) > 0):
            yield one.at


def _prefixes(times: Iterable[float], ours: _Of, theirs: _Of) -> Iterator[Prefixes]:
    blocks, matched = ours.grown("asked"), ours.grown("cached")
    asked, cached = theirs.grown("asked"), theirs.grown("cached")
    for at in times:
        whole = asked.get(at, 0.0) + (cached.get(at, 0.0) if theirs.names.beside else 0.0)
        if blocks.get(at, 0) > 0 and at in matched and whole > 0 and at in cached:
            yield Prefixes(at, matched[at] / blocks[at], cached[at] / whole)


def _slots(page: Page, model: str) -> int | None:
    """Of one replica: the gateway tells those of all that are ready."""
    slots = page.of((SLOTS,), model, "model")
    ready = _by_gateway(page, model)
    each = [value / ready[at] for one in slots[:1] for at, value in one.points.items() if ready.get(at) and value]
    return round(max(each)) if each else None


def _most(page: Page, workload: str) -> int | None:
    values = [value for one in page.of(MOST, workload, "") for value in one.points.values()]
    return int(max(values)) if values else None
