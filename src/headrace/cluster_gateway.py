"""`headrace gateway`: the gateway in a pod, over the pods of models, which it follows; reloaded, asked by KEDA, drained."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from headrace import foreground
from headrace.control.comparing import compared
from headrace.control.follow import Follow, outside_slots
from headrace.control.graduation import Aim, Rules
from headrace.dashboard.app import Dashboard
from headrace.dashboard.sight import Sight
from headrace.errors import UsageError
from headrace.foreground import LONGEST_ANSWER, Stop, connections, guarded
from headrace.gateway.admin import Admin
from headrace.gateway.certificate import Certificate
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.trials import Asked, Trials
from headrace.handover.line import Held
from headrace.handover.offer import Offer
from headrace.handover.predecessor import Predecessor, predecessor
from headrace.keys import begin, follow, prices
from headrace.observing import observe
from headrace.plan.plan import Plan
from headrace.reload import Reloaded
from headrace.spec.gateway_file import GatewayFile, GatewayFileError
from headrace.targets.base import Replica, State
from headrace.targets.outside import Outside, Server
from headrace.targets.pods.api import from_environment
from headrace.targets.pods.watch import SliceWatch
from headrace.terminal import Terminal
from headrace.traffic import ModelStatus
from headrace.units import show_duration

if TYPE_CHECKING:
    from headrace.keda.scaler import Scaler

RELOAD_SECONDS = 1.0
"""How often the file is looked at. The kubelet takes up to a minute to bring a changed ConfigMap."""

log = logging.getLogger("headrace")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `api` is the URL of a `kubectl proxy`, for a gateway that runs in no pod."""

    path: Path
    api: str | None = None
    listen: str | None = None
    insecure: bool = False
    takeover: bool = False


class View:
    """What the admin application and its pages may see: there is no plan here, and numbers of pods and logs are the cluster's."""

    absent = (
        "Pods are the cluster's: kubectl and KEDA say why there are so many, and Prometheus keeps what was. What another GPU or "
        "more users would take, headrace plan --machine says where the file is: no planner runs beside the requests here."
    )
    plan: Plan | None = None
    decisions: Sequence[tuple[float, str, str]] = ()
    wanted: Mapping[str, int] = MappingProxyType({})
    wishes: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self.follow: Follow | None = None

    @property
    def replicas(self) -> Sequence[Replica]:
        return self.follow.replicas if self.follow else ()

    def choices(self, model: str) -> Sequence[tuple[str, str]]:
        return ()

    def wish(self, model: str, want: str, by: str) -> str:
        return f"{model} has as many pods as the cluster gives it: kubectl scale, or its ScaledObject, changes that."

    def moves(self, model: str) -> Sequence[tuple[str, str]]:
        return ()

    def logs(self, replica: str, lines: int) -> list[str]:
        return [f"Its log is the cluster's: kubectl logs {replica}"]


class InCluster:
    """The parts and what connects them; one for the life of the process."""

    def __init__(self, options: Options, reloaded: Reloaded, file: GatewayFile, own: str) -> None:
        self._reloaded = reloaded
        self._aliases = dict(file.aliases)
        view = View()
        admin = Admin(view, self._aliases)
        certificate = Certificate(file.gateway.tls, log.warning) if file.gateway.tls else None
        self.gateway = Gateway(
            _limits(file), _unheard(file), file.aliases, admin.app, trusted=options.insecure, certificate=certificate
        )
        admin.gateway = self.gateway
        Dashboard(Sight(admin, view, None)).mount()
        self._clients = begin(file.gateway, file.priced, self.gateway, log.warning)
        self._stop_observing = observe(self.gateway, file.gateway.log, os.environ, log.warning)
        self._outside = Outside(self._changed)
        self.watch = SliceWatch(from_environment(options.api), file.namespace, self._changed)
        self.follow = view.follow = Follow(file, self.watch, self._outside, self.gateway, own)
        self._trials = Trials(self._services, self.follow.share, self._compared)
        self.follow.watched = self._trials.watched
        admin.app.router.routes[:0] = self._trials.routes()
        self._heard = asyncio.Event()
        self._scaler = _scaler(self.gateway) if file.scaler else None
        self._apply(file)

    async def run(self) -> None:
        """Follow pods and file until cancelled; raises what a task failed with, which is a bug of ours."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self.watch.run(), self.follow.run(), self._each_second()):
                tasks.create_task(work)
            if self._clients is not None:
                tasks.create_task(follow(self._clients, self.gateway))

    async def heard(self) -> None:
        """Return once it is known which pods there are."""
        await self._heard.wait()

    async def listen(self, host: str, port: int, before: Predecessor | None = None) -> tuple[str, int]:
        """Be asked: first by KEDA and other gateways, then by clients, which is when the pod is ready. Raises HeadraceError."""
        self.follow.look()
        if self._scaler is not None and self.follow.file.scaler is not None:
            await self._scaler.listen(host, self.follow.file.scaler.port)
        if before is None:
            return await self.gateway.listen(host, port)
        await before.give_way(self.gateway)
        return self.gateway.door.address

    async def drain(self, seconds: float) -> int:
        """Take nothing new, answer what there is; how many requests were not."""
        if self._scaler is not None:
            await self._scaler.close()
        return await self.gateway.drain(seconds)

    async def close(self) -> None:
        """End at once whatever is left."""
        self.gateway.close()
        if self._scaler is not None:
            await self._scaler.close()
        await self._outside.close()
        await self._trials.close()
        self._stop_observing()

    def _changed(self) -> None:
        """Pods or servers: something to look at."""
        self.follow.changed()
        if self.watch.slices is not None:
            self._heard.set()
        scaler = self.follow.file.scaler
        if self._scaler is not None and scaler is not None and (peers := self.follow.peers(scaler.service)) is not None:
            self._scaler.peers.update(peers)

    def _needed(self) -> None:
        """Somebody asks for a model that sleeps."""
        self.follow.changed()
        if self._scaler is not None:
            self._scaler.look()

    async def _each_second(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self._judge()
            self._reload()

    def _judge(self) -> None:
        """What was answered since the last look is kept for models on trial only: nobody here has a history of requests."""
        finished = self.gateway.finished()
        for name, model in self.gateway.models.items():
            split, own = model.status.split, [one for one in finished if one.model == name] if model.status.split else ()
            ready = [replica.name for replica in self.follow.replicas if replica.model == name and replica.state is State.READY]
            new = sum(replica in split.replicas for replica in ready) if split else 0
            self._trials.see(name, split, (len(ready) - new, new), model.load(), own)

    def _services(self, model: str) -> tuple[str, str] | None:
        about = self.follow.file.models.get(model)
        return (about.service, about.trial.service if about.trial else "") if about else None

    async def _compared(self, asked: Asked) -> tuple[str, str]:
        """The same prompts to a pod of each side, out of clients' sight."""
        model = self.gateway.models[asked.model]
        trial = model.status.split.replicas if model.status.split else frozenset()
        usable = [pool.endpoint for pool in model.pools.values() if pool.endpoint.slots]
        old = next((endpoint for endpoint in usable if endpoint.replica not in trial), None)
        new = next((endpoint for endpoint in usable if endpoint.replica in trial), None)
        if old is None or new is None:
            return "", f"not compared: no pod of the {'present' if old is None else 'new'} one is ready"
        aim = Aim(asked.model, "", prompts=asked.prompts, rules=Rules(slower=asked.slower))
        found = await compared(aim, model.status.task, old, new, asked.tokens)
        return found.trouble, found.remark

    def _reload(self) -> None:
        try:
            file = self._reloaded.again(self.follow.file)
        except GatewayFileError as error:
            log.error("The file was not taken, the one before stays in force: %s", error)
            return
        if file is not None:
            log.info("%s", _difference(self.follow.file, file))
            self._apply(file)

    def _apply(self, file: GatewayFile) -> None:
        """From now on this file is in force; requests that are under way are not disturbed."""
        before, self.follow.file = self.follow.file, file
        known = before.models.keys() | before.outside.keys()
        new = [status for status in _unheard(file) if status.model not in known]
        keep = [model.status for name, model in self.gateway.models.items() if name in file.models or name in file.outside]
        self._aliases.clear()
        self._aliases.update(file.aliases)
        self.gateway.replace(_limits(file), {status.model: status for status in (*keep, *new)}.values(), file.aliases)
        self.gateway.prices, self.gateway.currency = prices(file.priced), file.gateway.currency
        self.gateway.when_needed(self._needed)
        self._outside.want(_servers(file, self._reloaded.keys(file)))


def run(options: Options, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM, the first of which drains. Raises HeadraceError."""
    foreground.run(serve(options, terminal))


async def serve(options: Options, terminal: Terminal) -> None:
    """See `run`."""
    reloaded = Reloaded(options.path, os.environ)
    file = reloaded.first()
    host, port = _address(options, file)
    stop = Stop(terminal)
    before = await _before(options, file, host, port, terminal)
    terminal.say(f"Asking for the pods of {', '.join(file.models) or 'no model'} in {file.namespace}.")
    parts = InCluster(options, reloaded, file, os.environ.get("POD_NAME", "") or "this gateway")
    work = asyncio.create_task(parts.run())
    offer = Offer("gateway", parts.gateway, terminal, Held)
    try:
        await stop.unless(_first(parts.heard(), work))
        if not stop.asked:
            where = await parts.listen(host, port, before)
            terminal.say(f"Listening on {':'.join(map(str, where))}: {', '.join(parts.gateway.models)}.")
            offer.open()
        await offer.until_over(stop, max(file.gateway.drain, LONGEST_ANSWER), work)
        if before is not None:
            before.farewell()
        await stop.unless(_drained(parts, terminal), again=True)
    finally:
        parts.gateway.close()  # first: what is cut off was taken as well, and `work` writes that down at its end
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        offer.close()
        if before is not None:
            before.close()
        await parts.close()


async def _before(options: Options, file: GatewayFile, host: str, port: int, terminal: Terminal) -> Predecessor | None:
    if options.takeover and file.scaler is not None:
        raise UsageError(
            "--takeover: the file has a `scaler`, and the port that KEDA asks is not passed on.",
            "In a cluster the Deployment replaces gateways, and nobody is refused either.",
        )
    return await predecessor("gateway", host, port, terminal) if options.takeover else None


async def _first(one: Coroutine[Any, Any, None], work: asyncio.Task[None]) -> None:
    """Until `one` is done; raises what `work` failed with before."""
    task = asyncio.create_task(one)
    try:
        await asyncio.wait((task, work), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        task.cancel()


async def _drained(parts: InCluster, terminal: Terminal) -> None:
    seconds = parts.follow.file.gateway.drain
    running = sum(len(model.exchanges) for model in parts.gateway.models.values())
    if running:
        terminal.say(f"Draining: {running} requests may finish within {show_duration(seconds)}.")
    unfinished = await parts.drain(seconds)
    terminal.say(f"Stopped; {unfinished} requests were not finished." if unfinished else "Stopped; every request was answered.")


def _address(options: Options, file: GatewayFile) -> tuple[str, int]:
    way = "Name some in gateway.keys, or say --insecure when something else guards it, as a NetworkPolicy does."
    keys = file.gateway.keys is not None
    return guarded(options.listen or file.gateway.listen, way, keys=keys, insecure=options.insecure)


def _limits(file: GatewayFile) -> Limits:
    gateway = file.gateway
    most = connections(), gateway.connections.address, gateway.connections.key
    return Limits(gateway.queue.limit, gateway.queue.wait, gateway.body, *most)


def _unheard(file: GatewayFile) -> list[ModelStatus]:
    """Before anything is known of its pods or servers."""
    inside = [
        ModelStatus(name, model.task, "loading", "its pods are not known yet", model.context, frozenset(model.also))
        for name, model in file.models.items()
    ]
    return inside + [ModelStatus(name, None, "loading", "its servers were not asked yet") for name in file.outside]


def _servers(file: GatewayFile, keys: Mapping[str, str]) -> dict[str, list[Server]]:
    return {
        name: [Server(name, url, outside_slots(model), keys.get(name)) for url in model.url]
        for name, model in file.outside.items()
    }


def _difference(before: GatewayFile, after: GatewayFile) -> str:
    old, new = before.models | before.outside, after.models | after.outside
    said = [f"{name} is new" for name in new if name not in old]
    said += [f"{name} is served no more" for name in old if name not in new]
    said += [f"{name} is another" for name in new if name in old and old[name] != new[name]]
    return f"The file changed: {', '.join(said) or 'aliases or limits'}."


def _scaler(gateway: Gateway) -> "Scaler":
    try:
        from headrace.keda.activity import Count
        from headrace.keda.scaler import Scaler
    except ImportError as error:
        raise UsageError(f"KEDA cannot be told of the load: {error}.", "Run: pip install 'headrace[kubernetes]'") from None

    def counts() -> dict[str, Count]:
        return {name: Count(len(model.exchanges), model.arrived) for name, model in gateway.models.items()}

    return Scaler(counts)
