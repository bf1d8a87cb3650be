"""A graduation in a cluster, carried out from where the user is: the cluster keeps where it stands, the gateways count."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from headrace.cluster_graduation.lease import Lease, LostError
from headrace.cluster_graduation.prospect import CONFIG, Prospect, configured
from headrace.control.cluster_record import Record
from headrace.control.graduation import Rules, Seen, Standing, step
from headrace.control.guards import Evidence, median
from headrace.errors import HeadraceError
from headrace.targets.kubernetes import applying, sides, survey, waiting
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.gateways import Gateways, News
from headrace.targets.kubernetes.order import Ref
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.snapshot import Snapshot, View, component, name
from headrace.targets.kubernetes.standing import Standing as Stands
from headrace.targets.kubernetes.standing import standings
from headrace.terminal import Terminal
from headrace.units import show_duration

PAUSE_SECONDS = 1.0
TAKEN_SECONDS = 300.0
"""Until every gateway has taken a changed file: the kubelet brings it within about a minute, and asks again when that failed."""
COMPARED_SECONDS = 900.0
FAILING_SECONDS = 60.0
"""With what does not pass by itself, while it starts."""
SILENT_SECONDS = 90.0
"""Without an answer of a gateway."""
_TROUBLE_SECONDS = 300.0
"""Without an answer of the API server: gateways have sent everything to the old side by then."""
_LENGTHS = 200


@dataclass(slots=True)
class _Since:
    """How long something has been so without a break."""

    began: float | None = None

    def seconds(self, so: bool, now: float) -> float:
        if not so:
            self.began = None
        elif self.began is None:
            self.began = now
        return 0.0 if self.began is None else now - self.began


@dataclass
class Graduation:
    """One that is under way: `lease` is held, `planned` says what the new side is, and may be slow."""

    api: Api
    namespace: str
    lease: Lease
    planned: Callable[[], Prospect]
    gateways: Gateways
    terminal: Terminal
    evidence: Evidence = field(default_factory=Evidence)
    _standing: Standing = field(default_factory=lambda: Standing("starting", time.monotonic()))
    _trial: set[str] = field(default_factory=set)
    _lengths: list[int] = field(default_factory=list)
    _count: int = 1
    _made: bool = False
    _whole: bool = False
    _asked: bool = False
    _locked: str | None = None
    _restarts: int | None = None
    _replicas: int = 0
    _untaken: _Since = field(default_factory=_Since)
    _silent: _Since = field(default_factory=_Since)
    _failing: _Since = field(default_factory=_Since)
    _short: _Since = field(default_factory=_Since)
    _compared: tuple[str, str] | None = None

    @property
    def record(self) -> Record:
        assert self.lease.record is not None
        return self.lease.record

    @property
    def rules(self) -> Rules:
        return self.record.aim.rules

    @cached_property
    def prospect(self) -> Prospect:
        return self.planned()

    def run(self) -> Record:
        """Carry it out to its end. Raises HeadraceError; what stands then is on record."""
        self.evidence = Evidence(self.rules.slower)
        phase = self.record.phase
        if phase in ("planning", "comparing", "shifting"):
            phase = "starting"  # what was counted is lost with whoever counted
        self._standing = Standing(phase, time.monotonic(), self.record.reason)
        trouble = _Since()
        while not self._standing.over:
            try:
                self._turn()
                trouble.seconds(False, time.monotonic())
            except (LostError, DeniedError):
                raise
            except ClusterError as error:
                if trouble.seconds(True, time.monotonic()) >= _TROUBLE_SECONDS:
                    raise
                self.terminal.say(f"Trying again: {error}")
            if not self._standing.over:
                time.sleep(PAUSE_SECONDS)
        return self.record

    def _turn(self) -> None:
        snapshot = waiting.take(self.api, self.namespace)
        old, new = standings({self.record.old: self.record.aim.model, self.record.new: self.record.aim.model}, snapshot)
        news = self.gateways.ask(snapshot)
        now = time.monotonic()
        self._weigh(news, now)
        if self._standing.keeps_old:
            least = int(self.record.before.get("replicas", [1, 1])[0])
            self._count = max(1, least, old.ready)
        self._act(snapshot, news)
        seen = self._seen(snapshot, old, new, news, now)
        if self._standing.phase == "shifting" and not self._taken(news):
            self._standing = replace(self._standing, since=now)  # a step begins when every gateway knows of it
        standing = step(self._standing, seen, self.rules, now)
        if standing is not self._standing:
            self._enter(standing)

    def _enter(self, standing: Standing) -> None:
        """On record first: whoever comes after a crash does what belongs to it."""
        self.lease.write(self.record.at(standing.phase, standing.reason, time.time()))
        self._standing = standing
        self._untaken, self._short = _Since(), _Since()
        self.terminal.say(f"{time.strftime('%H:%M:%S')}  {standing.phase}: {standing.reason}")
        if standing.phase == "shifting":
            self.evidence.next_step(alone=standing.share(self.rules) >= 1)

    def _weigh(self, news: News, now: float) -> None:
        self._trial |= news.trial
        shifting = self._standing.phase in ("shifting", "locking")
        self.evidence.see(news.finished, self._trial, news.lost, now, shifting=shifting)
        self._lengths = [*self._lengths, *(one.tokens_in for one in news.finished if one.tokens_in)][-_LENGTHS:]

    # ---- making it so

    def _act(self, snapshot: Snapshot, news: News) -> None:
        phase = self._standing.phase
        if phase in ("starting", "comparing", "shifting", "locking"):
            self._scale(self._wanted())
            self._tell(sides.split(self.record.before, self.record.after, self._standing.share(self.rules)))
        if phase == "comparing" and not self._asked and news.told:
            self._compare(news.told[0].pod)
        if phase == "locking":
            self._commit()
        if phase == "draining":
            self._settle(snapshot, news)
        if phase == "rolling back":
            self._tell(self.record.before)
            if self._taken(news) or self._overdue(news):
                self._remove(self.record.new, snapshot)

    def _compare(self, pod: str) -> None:
        tokens = int(median([float(length) for length in self._lengths])) or 64
        self._asked = True
        try:
            self.gateways.compare(pod, self.record.aim.prompts, tokens, self.rules.slower)
        except ClusterError as error:
            self._compared = "", f"not compared: {error}"

    def _wanted(self) -> int:
        """Replicas of the new side: enough for the step after this one, so that it begins with them."""
        rules, standing = self.rules, self._standing
        if standing.phase in ("starting", "comparing"):
            return sides.needed(rules.steps[0] / 100, self._count)
        following = rules.steps[min(standing.step + 1, len(rules.steps) - 1)] if standing.phase == "shifting" else 100
        return sides.needed(following / 100, self._count)

    def _scale(self, replicas: int) -> None:
        """Its objects with so many replicas, or more: it is not made smaller while it is on trial."""
        if self._made and replicas <= self._replicas:
            return
        live = survey.live(self.api, self.namespace, self.prospect.made)
        replicas = max(replicas, sides.running(live.objects.values(), self.record.new))
        made = sides.counted(self.prospect.made, replicas)
        applying.apply(self.api, made, live, force=True, tell=self._say_made)
        self._made, self._replicas = True, replicas

    def _say_made(self, outcome: applying.Outcome) -> None:
        if outcome.did == "created":
            self.terminal.say(f"+ {outcome.ref}")

    def _tell(self, about: dict[str, object]) -> None:
        """Have the gateways' file say so of the model, if it does not."""
        now = configured(self.api, self.namespace)
        if sides.told(now)["models"].get(self.record.aim.model) == about:
            return
        resource = self.api.resource(*CONFIG)
        assert resource is not None
        self.api.apply(resource, sides.telling(now, self.record.aim.model, about), force=True)

    def _commit(self) -> None:
        try:
            if self.record.abort and self.prospect.text != self.prospect.file.text:
                return
            self.prospect.commit()
            self._locked = ""
        except (OSError, HeadraceError) as error:
            self._locked = str(error)

    def _settle(self, snapshot: Snapshot, news: News) -> None:
        """The new side for all; once every gateway knows, the old one goes."""
        self._tell(self.record.after)
        if not self._whole:
            # Scalers of both for a moment: each has pods of its own.
            made = self.prospect.made
            live = survey.live(self.api, self.namespace, made)
            applying.apply(self.api, made, live, force=True, tell=self._say_made)
            self._whole = True
        if self._taken(news):
            self._remove(self.record.old, snapshot)

    def _remove(self, called: str, snapshot: Snapshot) -> None:
        """What runs it first, which lets its pods answer what they have; the rest once they are gone."""
        live = survey.live(self.api, self.namespace)
        first, rest, _ = sides.leaving(live.objects, called)
        refs = first if first or _pods(snapshot, called) else rest
        applying.remove(self.api, refs, live, self.namespace, self._say_gone)

    def _say_gone(self, one: Ref) -> None:
        self.terminal.say(f"- {one}")

    # ---- seeing how it is

    def _taken(self, news: News) -> bool:
        """Whether every gateway does what it was told."""
        standing, record = self._standing, self.record
        if standing.phase == "draining":
            wanted = (record.after["service"], "", 0.0)
        elif standing.phase == "rolling back":
            wanted = (record.old, "", 0.0)
        else:
            wanted = (record.old, record.new, standing.share(self.rules))
        return bool(news.told) and not news.silent and all((one.service, one.trial, one.share) == wanted for one in news.told)

    def _overdue(self, news: News) -> bool:
        return self._untaken.seconds(not self._taken(news), time.monotonic()) >= TAKEN_SECONDS

    def _seen(self, snapshot: Snapshot, old: Stands, new: Stands, news: News, now: float) -> Seen:
        phase = self._standing.phase
        ready = new.ready
        if phase == "starting":  # a gateway that does not see it yet would send nothing there
            ready = min([ready, *(one.ready[1] for one in news.told)]) if self._taken(news) else 0
        wanted = self._wanted() if self._standing.keeps_old else min(1, int(self.record.after.get("replicas", [1, 1])[0]))
        broken = self._broken(new, news, now, short=ready < wanted)
        compared = self._comparison(news, now)
        return Seen(
            new_wanted=wanted,
            new_ready=ready,
            new_there=self._there(self.record.new, snapshot) if phase == "rolling back" else new.ready,
            old_there=self._there(self.record.old, snapshot) if phase == "draining" else old.ready,
            old_ready=old.ready,
            broken=broken,
            failures=2 if broken else 0,
            compared=compared[0] if compared else None,
            remark=compared[1] if compared else "",
            answers=self.evidence.answers,
            breach=self.evidence.breach,
            locked=self._locked,
            abort=self.record.abort,
        )

    def _there(self, called: str, snapshot: Snapshot) -> int:
        """Pods and objects that have still to go; volumes with weights stay."""
        first, rest, _ = sides.leaving(survey.live(self.api, self.namespace).objects, called)
        return len(_pods(snapshot, called)) + len(first) + len(rest)

    def _comparison(self, news: News, now: float) -> tuple[str, str] | None:
        if self._standing.phase != "comparing":
            return None
        found = self._compared or next((one.compared for one in news.told if one.compared is not None), None)
        if found is None and now - self._standing.since >= COMPARED_SECONDS:
            return "", f"not compared: no answer after {show_duration(COMPARED_SECONDS)}"
        return found if self._asked else None

    def _broken(self, new: Stands, news: News, now: float, *, short: bool) -> str:
        """Why the new side is no good, or cannot be judged; empty while it may be."""
        phase, since = self._standing.phase, now - self._standing.since
        if phase not in ("starting", "comparing", "shifting", "locking"):
            return ""
        if self._silent.seconds(bool(news.silent), now) >= SILENT_SECONDS:
            return f"nobody can say how it does: {news.silent}"
        patience = FAILING_SECONDS if phase == "starting" else 2 * PAUSE_SECONDS
        if self._failing.seconds(new.state == "failing", now) >= patience:
            return new.line
        if self._untaken.seconds(not self._taken(news), now) >= TAKEN_SECONDS:
            return f"not every gateway took the changed file within {show_duration(TAKEN_SECONDS)}"
        if phase == "starting":
            late = since >= self.rules.start_seconds - PAUSE_SECONDS
            return f"it was not ready after {show_duration(self.rules.start_seconds)}: {new.line}" if late else ""
        restarts = sum(each.restarts for each in new.replicas)
        self._restarts = restarts if self._restarts is None else self._restarts
        if restarts > self._restarts:
            return f"a pod of it was restarted: {new.line}"
        if self._short.seconds(short, now) >= self.rules.start_seconds:
            return f"not enough of it is ready after {show_duration(self.rules.start_seconds)}: {new.line}"
        return ""


def _pods(snapshot: Snapshot, called: str) -> list[str]:
    """Pods of a side, those that are ending too."""
    view = View(called, snapshot)
    return [name(pod) for pod in snapshot.pods if view.mine(pod) and component(pod) != "pull"]


def aborted(record: Record, reason: str) -> Record:
    """The record of one that nobody carries out, on its way back."""
    return msgspec.structs.replace(record.at("rolling back", reason, time.time()), abort=reason)
