"""A graduation in a cluster, carried out from where the user is: the cluster keeps where it stands, the gateways count."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from headrace.cluster_graduation.lease import Lease, LostError
from headrace.cluster_graduation.patience import FORWARD, PAUSE_SECONDS, Leaving, Patience, Since
from headrace.cluster_graduation.prospect import CONFIG, Prospect, configured
from headrace.control.cluster_record import Record
from headrace.control.graduation import Rules, Seen, Standing, judged, step
from headrace.control.guards import Evidence, median
from headrace.errors import HeadraceError
from headrace.targets.kubernetes import applying, sides, survey, waiting
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.gateways import Gateways, News
from headrace.targets.kubernetes.order import Ref
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError, RefusedError
from headrace.targets.kubernetes.snapshot import Snapshot, View, component, name
from headrace.targets.kubernetes.standing import Standing as Stands
from headrace.targets.kubernetes.standing import standings
from headrace.terminal import Terminal
from headrace.units import show_duration

COMPARED_SECONDS = 900.0
TROUBLE_SECONDS = 300.0
"""Without an answer of the API server: gateways have sent everything to the old side by then."""
_LENGTHS = 200


@dataclass
class Graduation:
    """One that is under way: `lease` is held, `planned` says what the new side is, and may be slow. `drain` is for how many
    seconds a side that goes may answer what it has.
    """

    api: Api
    namespace: str
    lease: Lease
    planned: Callable[[], Prospect]
    gateways: Gateways
    drain: float
    terminal: Terminal
    evidence: Evidence = field(default_factory=Evidence)
    _standing: Standing = field(default_factory=lambda: Standing("starting", time.monotonic()))
    _trial: set[str] = field(default_factory=set)
    _lengths: list[int] = field(default_factory=list)
    _count: int = 1
    _made: bool = False
    _whole: bool = False
    _refused: str = ""
    _asked: str = ""
    """The gateway's process that compares."""
    _locked: str | None = None
    _replicas: int = 0
    _patience: Patience = field(default_factory=Patience)
    _emptied: bool = False
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

    @cached_property
    def _leaving(self) -> Leaving:
        return Leaving(self.drain)

    def run(self) -> Record:
        """Carry it out to its end. Raises HeadraceError; what stands then is on record."""
        self.evidence = Evidence(self.rules.slower)
        phase = self.record.phase
        if phase in ("planning", "comparing", "shifting"):
            phase = "starting"  # what was counted is lost with whoever counted
        self._standing = Standing(phase, time.monotonic(), self.record.reason)
        trouble, said = Since(), ""
        while not self._standing.over:
            try:
                self._turn()
                trouble, said = Since(), ""
            except (LostError, DeniedError):
                raise
            except ClusterError as error:
                if str(error) != said:
                    self.terminal.say(f"Trying again: {error}")
                said = str(error)
                if trouble.seconds(True, time.monotonic()) >= TROUBLE_SECONDS:
                    self._give_up(error)
                    trouble = Since()
            if not self._standing.over:
                time.sleep(PAUSE_SECONDS)
        return self.record

    def _give_up(self, error: ClusterError) -> None:
        """Go back, where there is a way back and the cluster lets that be written. Raises ClusterError."""
        if self._standing.phase not in FORWARD or self._locked == "":
            raise error
        why = f"the cluster did not let it go on for {show_duration(TROUBLE_SECONDS)}: {error.what}"
        self._enter(Standing("rolling back", time.monotonic(), why))

    def _turn(self) -> None:
        if self.lease.lost is not None:
            raise self.lease.lost
        snapshot = waiting.take(self.api, self.namespace)
        old, new = standings({self.record.old: self.record.aim.model, self.record.new: self.record.aim.model}, snapshot)
        news = self.gateways.ask(snapshot, watch=self._standing.phase != "rolling back")
        now = time.monotonic()
        self._weigh(news, now)
        if self._standing.keeps_old:
            least = int(self.record.before.get("replicas", [1, 1])[0])
            self._count = max(1, least, old.ready)
        self._act(snapshot, news, now)
        seen = self._seen(snapshot, old, new, news, now)
        if self._standing.phase == "shifting" and not self._taken(news):
            self._standing = replace(self._standing, since=now)  # a step begins when every gateway knows of it
        standing = step(self._standing, seen, self.rules, now)
        if standing is not self._standing:
            self._enter(standing)
        elif standing.phase == "comparing":
            self._compare(news)

    def _enter(self, standing: Standing) -> None:
        """On record first: whoever comes after a crash does what belongs to it."""
        self.lease.write(self.record.at(standing.phase, standing.reason, time.time()))
        self._standing = standing
        self._patience.entered()
        self.terminal.say(f"{time.strftime('%H:%M:%S')}  {standing.phase}: {standing.reason}")
        if standing.phase == "shifting":
            self.evidence.next_step(alone=standing.share(self.rules) >= 1)

    def _weigh(self, news: News, now: float) -> None:
        self._trial |= news.trial
        shifting = self._standing.phase in ("shifting", "locking")
        self.evidence.see(news.finished, self._trial, news.lost, now, shifting=shifting)
        self._lengths = [*self._lengths, *(one.tokens_in for one in news.finished if one.tokens_in)][-_LENGTHS:]

    # ---- making it so

    def _act(self, snapshot: Snapshot, news: News, now: float) -> None:
        phase = self._standing.phase
        if phase in FORWARD:
            self._scale(self._wanted())
            self._tell(sides.split(self.record.before, self.record.after, self._standing.share(self.rules)))
        if phase == "locking":
            self._commit()
        if phase == "draining":
            self._settle(snapshot, news, now)
        if phase == "rolling back":
            self._go_back(snapshot, news, now)

    def _compare(self, news: News) -> None:
        """Have a gateway compare; another one, where that process is there no more."""
        if not news.told or any(one.id == self._asked for one in news.told):
            return
        tokens = int(median([float(length) for length in self._lengths])) or 64
        try:
            self.gateways.compare(news.told[0].pod, self.record.aim.prompts, tokens, self.rules.slower)
            self._asked = news.told[0].id
        except DeniedError as error:
            self._compared = "", f"not compared: {error}"

    def _wanted(self) -> int:
        """Replicas of the new side: enough for the step after this one, so that it begins with them."""
        rules, standing = self.rules, self._standing
        if not sides.countable(self.prospect.made):
            return 1
        if standing.phase in ("starting", "comparing"):
            return sides.needed(rules.steps[0] / 100, self._count)
        following = rules.steps[min(standing.step + 1, len(rules.steps) - 1)] if standing.phase == "shifting" else 100
        return sides.needed(following / 100, self._count)

    def _scale(self, replicas: int) -> None:
        """Its objects with so many replicas, or more: it is not made smaller while it is on trial."""
        if self._refused or (self._made and replicas <= self._replicas):
            return
        self.lease.sure()
        live = survey.live(self.api, self.namespace, self.prospect.made)
        replicas = max(replicas, sides.running(live.objects.values(), self.record.new))
        made = sides.counted(self.prospect.made, replicas)
        try:
            applying.apply(self.api, made, live, force=True, tell=self._say_made)
        except applying.FailedError as error:
            if not any(isinstance(each, RefusedError | DeniedError) for each in error.errors):
                raise
            self._refused = str(error)  # by a rule of the cluster: asking again changes nothing
            return
        self._made, self._replicas = True, replicas

    def _say_made(self, outcome: applying.Outcome) -> None:
        if outcome.did == "created":
            self.terminal.say(f"+ {outcome.ref}")

    def _tell(self, about: dict[str, object]) -> None:
        """Have the gateways' file say so of the model, if it does not."""
        now = configured(self.api, self.namespace)
        if sides.told(now)["models"].get(self.record.aim.model) == about:
            return
        self.lease.sure()
        resource = self.api.resource(*CONFIG)
        assert resource is not None
        self.api.apply(resource, sides.telling(now, self.record.aim.model, about), force=True)

    def _present(self) -> object:
        """What the gateways' file says of the model."""
        return sides.told(configured(self.api, self.namespace))["models"].get(self.record.aim.model)

    def _commit(self) -> None:
        self.lease.sure()
        try:
            if self.record.abort and self.prospect.text != self.prospect.file.text:
                self._locked = self.record.abort
                return
            self.prospect.commit()
            self._locked = ""
        except (OSError, HeadraceError) as error:
            self._locked = str(error)

    def _settle(self, snapshot: Snapshot, news: News, now: float) -> None:
        """The new side for all; once the old one has answered what it had and every gateway knows, it goes."""
        if not self._whole:
            self.lease.sure()
            # Scalers of both for a moment: each has pods of its own.
            made = self.prospect.made
            live = survey.live(self.api, self.namespace, made)
            applying.apply(self.api, made, live, force=True, tell=self._say_made)
            self._whole = True
        if not self._emptied:
            self._emptied = self._present() == self.record.after or self._leaving.over(self.record.old, news, now)
        if self._emptied:
            self._tell(self.record.after)
            if self._taken(news):
                self._remove(self.record.old, snapshot)

    def _go_back(self, snapshot: Snapshot, news: News, now: float) -> None:
        """The old side for all: gateways that nobody watches send nothing to the new one; once it has answered what it had, it
        goes.
        """
        if not self._emptied:
            self._emptied = self._present() == self.record.before or self._leaving.over(self.record.new, news, now)
        self._tell(self.record.before if self._emptied else sides.split(self.record.before, self.record.after, 0.0))
        if self._emptied:
            self._remove(self.record.new, snapshot)

    def _remove(self, called: str, snapshot: Snapshot) -> None:
        """What runs it first, which lets its pods answer what they have; the rest once they are gone."""
        live = survey.live(self.api, self.namespace)
        first, rest, _ = sides.leaving(live.objects, called)
        refs = first if first or _pods(snapshot, called) else rest
        if refs:
            self.lease.sure()
        applying.remove(self.api, refs, live, self.namespace, self._say_gone)

    def _say_gone(self, one: Ref) -> None:
        self.terminal.say(f"- {one}")

    # ---- seeing how it is

    def _taken(self, news: News) -> bool:
        """Whether every gateway does what it was told."""
        standing, record = self._standing, self.record
        split = record.old, record.new, standing.share(self.rules)
        wanted = (record.new, "", 0.0) if standing.phase == "draining" else split
        return bool(news.told) and not news.silent and all((one.service, one.trial, one.share) == wanted for one in news.told)

    def _seen(self, snapshot: Snapshot, old: Stands, new: Stands, news: News, now: float) -> Seen:
        phase = self._standing.phase
        ready = new.ready
        if phase == "starting":  # a gateway that does not see it yet would send nothing there
            ready = min([ready, *(one.ready[1] for one in news.told)]) if self._taken(news) else 0
        wanted = self._wanted() if phase in FORWARD else min(1, int(self.record.after.get("replicas", [1, 1])[0]))
        taken, short = self._taken(news), ready < wanted
        broken = self._refused or self._patience.over(self._standing, self.rules, new, news, now, taken=taken, short=short)
        compared = self._comparison(news, now)
        seen = Seen(
            new_wanted=wanted,
            new_ready=ready,
            new_there=self._there(self.record.new, snapshot) if phase == "rolling back" else new.ready,
            old_there=self._there(self.record.old, snapshot) if phase == "draining" else old.ready,
            old_ready=old.ready,
            broken=broken,
            failures=2 if broken else 0,
            compared=compared[0] if compared else None,
            remark=compared[1] if compared else "",
            locked=self._locked,
            abort=self.record.abort,
        )
        return judged(seen, self.evidence)

    def _there(self, called: str, snapshot: Snapshot) -> int:
        """Pods and objects that have still to go; volumes with weights stay."""
        first, rest, _ = sides.leaving(survey.live(self.api, self.namespace).objects, called)
        return len(_pods(snapshot, called)) + len(first) + len(rest)

    def _comparison(self, news: News, now: float) -> tuple[str, str] | None:
        if self._standing.phase != "comparing":
            return None
        found = self._compared or next((one.compared for one in news.told if one.id == self._asked), None)
        if found is None and now - self._standing.since >= COMPARED_SECONDS:
            return "", f"not compared: no answer after {show_duration(COMPARED_SECONDS)}"
        return found


def _pods(snapshot: Snapshot, called: str) -> list[str]:
    """Pods of a side, those that are ending too."""
    view = View(called, snapshot)
    return [name(pod) for pod in snapshot.pods if view.mine(pod) and component(pod) != "pull"]


def aborted(record: Record, reason: str) -> Record:
    """The record of one that nobody carries out, on its way back."""
    return msgspec.structs.replace(record.at("rolling back", reason, time.time()), abort=reason)
