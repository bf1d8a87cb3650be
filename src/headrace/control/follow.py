"""The control loop of a gateway in a cluster: what the API server tells of pods → the gateway, at once. It changes no pod."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Protocol

from headrace.control.members import Member, on_trial, replicas, status
from headrace.control.status import endpoints
from headrace.control.status import status as planned_status
from headrace.plan.base import PlannedModel
from headrace.plan.choose import SERVER_SLOTS
from headrace.spec.gateway_file import GatewayFile, InPods
from headrace.spec.model import ModelSpec
from headrace.targets.base import Replica
from headrace.targets.pods.slices import Pod, Slice, Standing, pods
from headrace.traffic import Endpoint, ModelStatus

LOOK_SECONDS = 1.0
"""How long it waits when nothing happens."""
KNOCK_SECONDS = 1.0
"""Between two tries to connect to a pod that took no connection; each may take as long. No health check: that is the kubelet's,
whose verdict comes with the slices. But a pod whose node is lost is ready to the cluster for most of a minute."""

log = logging.getLogger("headrace")


class Front(Protocol):
    """The gateway, as this loop sees it."""

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        """What may be used now."""

    def suspects(self) -> Mapping[str, frozenset[str]]:
        """Replicas that took no connection since the last update, by model."""


class Told(Protocol):
    """What the API server told last (see `SliceWatch`)."""

    slices: dict[str, Slice] | None


class Elsewhere(Protocol):
    """Servers that are no pods of ours (see `Outside`)."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """How they are."""


class Follow:
    """Keeps the gateway at what the cluster tells. `file` may be replaced at any time; `changed()` makes it look at once.

    `own` is the name of this gateway's pod.
    """

    def __init__(self, file: GatewayFile, told: Told, outside: Elsewhere, front: Front, own: str) -> None:
        self.file = file
        self.replicas: tuple[Replica, ...] = ()
        """Every pod and server, as it was when it was looked at last."""
        self.watched: Callable[[str], bool] = lambda model: True
        """Whether somebody looks after the model's trial: one that nobody watches gets nothing."""
        self._told, self._outside, self._front, self._own = told, outside, front, own
        self._wakes = asyncio.Event()
        self._refusing: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By pod and address: who takes no connections, and the task that keeps knocking."""
        self._served: frozenset[str] = frozenset()
        """Pods of gateways that are there and have been ready: such a one may have requests, whatever its probe says now."""

    def changed(self) -> None:
        """Something is to be looked at."""
        self._wakes.set()

    async def run(self) -> None:
        """Look, wait for news, look again, until cancelled."""
        try:
            while True:
                self.look()
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wakes.wait()
                except TimeoutError:
                    continue
                self._wakes.clear()
        finally:
            for task in self._refusing.values():
                task.cancel()
            await asyncio.gather(*self._refusing.values(), return_exceptions=True)

    def look(self) -> None:
        """Tell the gateway what is known now."""
        slices = self._told.slices
        by_service = _by_service(slices.values() if slices else ())
        members = [_member(name, about, by_service) for name, about in self.file.models.items()]
        trials = {name: _member(name, about.trial, by_service) for name, about in self.file.models.items() if about.trial}
        self._knock([*members, *trials.values()])
        now, before = monotonic(), {(replica.model, replica.name): replica for replica in self.replicas}
        gateways = self._gateways(by_service)
        found: list[Replica] = list(self._outside.replicas)
        statuses = [_outside_status(name, model, found) for name, model in self.file.outside.items()]

        def seen(member: Member) -> tuple[tuple[Replica, ...], ModelStatus]:
            own = {name: before[member.name, name] for name in member.pods if (member.name, name) in before}
            refusing = {name for name, pod in member.pods.items() if (name, pod.address) in self._refusing}
            made = replicas(member, gateways, refusing, own, now)
            found.extend(made)
            return made, status(member, made, now, heard=slices is not None)

        for member in members:
            _, told = seen(member)
            if (trial := trials.get(member.name)) is not None:
                made, new = seen(trial)
                told = on_trial(told, new, made, self.share(member.name))
            statuses.append(told)
        _log(before, found)
        self.replicas = tuple(found)
        self._front.update(statuses, endpoints(found))

    def share(self, model: str) -> float:
        """The part of a model's conversations that goes to its trial now."""
        about = self.file.models.get(model)
        trial = about.trial if about else None
        return trial.share if trial is not None and self.watched(model) else 0.0

    def peers(self, service: str) -> dict[str, tuple[str, bool]] | None:
        """The other gateways' pods behind `service` that are or were ready: (host:port, whether it is ending); None when nothing
        was heard. Asked at every change: one that was ready is remembered until it is gone.
        """
        if self._told.slices is None:
            return None
        found = pods(self._told.slices.values(), service, "grpc").values()
        served = [pod for pod in found if pod.standing is not Standing.STARTING or pod.name in self._served]
        self._served = frozenset(pod.name for pod in served)
        return {
            pod.name: (pod.address.removeprefix("http://"), pod.standing is Standing.DRAINING)
            for pod in served
            if pod.name != self._own
        }

    def _gateways(self, by_service: Mapping[str, list[Slice]]) -> int:
        """How many share the slots: those that are ready, ourselves included even while nobody knows that we are."""
        found = pods(by_service.get(self.file.service, ()), self.file.service, "http").values()
        return len({pod.name for pod in found if pod.standing is Standing.READY} | {self._own})

    def _knock(self, members: Iterable[Member]) -> None:
        """Start knocking at pods that took no connection; stop at those that are gone."""
        ready = {
            (member.name, pod.name): pod for member in members for pod in member.pods.values() if pod.standing is Standing.READY
        }
        for model, names in self._front.suspects().items():
            for name in names:
                pod = ready.get((model, name))
                if pod is not None and (key := (pod.name, pod.address)) not in self._refusing:
                    log.warning("%s, %s at %s, takes no connections: it gets no requests until it does", model, name, pod.address)
                    self._refusing[key] = asyncio.create_task(self._until_open(key, pod))
        there = {(pod.name, pod.address) for pod in ready.values()}
        for key in self._refusing.keys() - there:
            self._refusing.pop(key).cancel()

    async def _until_open(self, key: tuple[str, str], pod: Pod) -> None:
        while not await _opens(pod):
            await asyncio.sleep(KNOCK_SECONDS)
        self._refusing.pop(key, None)
        self.changed()


def _member(name: str, about: InPods, by_service: Mapping[str, list[Slice]]) -> Member:
    return Member(name, about, pods(by_service.get(about.service, ()), about.service, about.port))


def _by_service(slices: Iterable[Slice]) -> dict[str, list[Slice]]:
    """Looked at once, not once for each of hundreds of models."""
    found: dict[str, list[Slice]] = {}
    for each in slices:
        found.setdefault(each.service, []).append(each)
    return found


async def _opens(pod: Pod) -> bool:
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            _, writer = await asyncio.open_connection(pod.host, pod.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _outside_status(name: str, model: ModelSpec, found: Iterable[Replica]) -> ModelStatus:
    """Of what it does and holds only its servers know, where the file does not say."""
    context = None if model.context == "auto" else model.context
    planned = PlannedModel(name, "generate", None, model.url, outside_slots(model), (), context)
    told = planned_status(planned, [replica for replica in found if replica.model == name])
    return replace(told, task=None if model.task == "auto" else model.task)


def outside_slots(model: ModelSpec) -> int:
    """Requests at once at one of its servers; the engine's own queue is where they wait when nobody says."""
    return SERVER_SLOTS if model.slots == "auto" else model.slots


def _log(before: Mapping[tuple[str, str], Replica], found: Iterable[Replica]) -> None:
    """Each change once."""
    now = {(replica.model, replica.name): replica for replica in found}
    for key, replica in now.items():
        if key not in before or before[key].state is not replica.state:
            log.info("%s: %s at %s is %s: %s", key[0], key[1], replica.placement, replica.state.value, replica.reason)
    for key in before.keys() - now.keys():
        log.info("%s: %s is gone", *key)
