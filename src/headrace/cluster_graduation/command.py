"""`headrace graduate --cluster`: begin, go on with, watch or end a graduation whose record the cluster keeps."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from headrace.cluster_graduation.carried import Graduation, aborted
from headrace.cluster_graduation.lease import GONE_SECONDS, BusyError, Lease, myself
from headrace.cluster_graduation.prospect import File, Prospect, check, prospect
from headrace.clusters import Which
from headrace.control.cluster_record import Record, record_name
from headrace.control.graduation import Aim, checked
from headrace.errors import UsageError
from headrace.rendering import Wish
from headrace.targets.kubernetes import waiting
from headrace.targets.kubernetes.client import Api, connect
from headrace.targets.kubernetes.gateways import Gateways
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.manifests.base import object_name
from headrace.terminal import Terminal

POLL_SECONDS = 1.0
KEY = "HEADRACE_KEY"
"""The variable with a key that may read /admin/, where the gateways ask for keys."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says. `agreed` asks the user, with what is about to be done said before."""

    file: File
    aim: Aim
    which: Which = field(default_factory=Which)
    wish: Wish = field(default_factory=Wish)
    agreed: Callable[[], bool] = lambda: True

    @property
    def namespace(self) -> str:
        return self.file.spec.kubernetes.namespace


def graduate(asked: Asked, terminal: Terminal) -> Record | None:
    """Move the model, or go on with what was begun; None where the user did not agree. Raises HeadraceError."""
    asked = _named(asked)
    with connect(asked.which.kubeconfig, asked.which.context) as api:
        api.version()
        lease = _lease(api, asked)
        found = lease.look()
        if found is not None and not found.over:
            return _resumed(api, lease, found, asked, terminal)
        return _begun(api, lease, asked, terminal)


def abort(asked: Asked, terminal: Terminal) -> Record:
    """Go back: whoever carries it out is asked to, and where nobody does it is done from here. Raises HeadraceError."""
    asked = _named(asked)
    with connect(asked.which.kubeconfig, asked.which.context) as api:
        lease = _lease(api, asked)
        found = _under_way(lease, asked)
        if found.phase == "draining":
            raise UsageError(f"{asked.aim.model} runs as {found.new} by now: there is no way back but another graduation.")
        lease.wish_back(myself().partition("/")[0])
        try:
            lease.take(terminal.say)
        except BusyError:
            return _watched(lease, terminal)
        assert lease.record is not None
        if lease.record.phase not in ("rolling back", "locking"):
            lease.write(aborted(lease.record, lease.record.abort))
        return _carried_out(api, lease, asked, terminal)


def status(asked: Asked, terminal: Terminal) -> Record:
    """Watch it to its end while somebody carries it out. Raises UsageError where there was none."""
    asked = _named(asked)
    with connect(asked.which.kubeconfig, asked.which.context) as api:
        lease = _lease(api, asked)
        if lease.look() is None:
            raise UsageError(f"There was no graduation of {asked.aim.model} in {asked.namespace}.")
        return _watched(lease, terminal)


def _begun(api: Api, lease: Lease, asked: Asked, terminal: Terminal) -> Record | None:
    aim = checked(asked.aim)
    found = prospect(api, asked.file, aim, asked.wish, terminal)
    check(api, found, asked.namespace, terminal)
    gateways = _gateways(api, asked)
    if silent := gateways.ask(waiting.take(api, asked.namespace)).silent:
        way = "" if os.environ.get(KEY) else f"Where it asks for keys, one made with headrace key add --admin belongs in {KEY}."
        raise ClusterError(f"Nobody could watch over it: {silent}.", way)
    for line in found.sentences():
        terminal.say(line)
    if not asked.agreed():
        return None
    aim = replace(aim, to=aim.to or found.engine)
    record = Record(aim, "planning", found.old, found.new, dict(found.before), dict(found.after), by_file=not asked.aim.to)
    lease.begin(record.at("starting", f"{found.old} → {found.new} ({found.engine})", time.time()))
    return _carried_out(api, lease, asked, terminal, found)


def _resumed(api: Api, lease: Lease, found: Record, asked: Asked, terminal: Terminal) -> Record:
    if asked.aim.to and asked.aim.to != found.aim.to:
        raise UsageError(
            f"{found}, to {found.aim.to}.", f"headrace graduate {found.aim.model} --cluster goes on with it, --abort goes back."
        )
    lease.take(terminal.say)
    terminal.say(f"Going on: {found}.")
    return _carried_out(api, lease, asked, terminal)


def _carried_out(api: Api, lease: Lease, asked: Asked, terminal: Terminal, found: Prospect | None = None) -> Record:
    def planned() -> Prospect:
        assert lease.record is not None
        return found or prospect(api, asked.file, _said(lease.record), asked.wish, terminal, lease.record)

    try:
        drain = asked.file.spec.gateway.drain
        return Graduation(api, asked.namespace, lease, planned, _gateways(api, asked), drain, terminal).run()
    except KeyboardInterrupt:
        assert lease.record is not None
        terminal.say(
            f"Left where it stands ({lease.record.phase}). Gateways that nobody asks send everything to {lease.record.old} "
            f"after a minute. headrace graduate {asked.aim.model} --cluster goes on with it, with --abort it goes back."
        )
        raise
    finally:
        lease.release()


def _said(record: Record) -> Aim:
    """What was asked for then. Where the file said it, it still does."""
    return replace(record.aim, to="" if record.by_file else record.aim.to)


def _watched(lease: Lease, terminal: Terminal) -> Record:
    """Say what is written, until it is over or nobody writes any more."""
    seen, beat, since = 0, -1, time.monotonic()
    while True:
        record = lease.look()
        if record is None:
            raise ClusterError("Its record was removed.")
        for at, said in record.story[seen:]:
            terminal.say(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {said}")
        seen = len(record.story)
        if record.beat != beat:
            beat, since = record.beat, time.monotonic()
        if record.over or not record.holder:
            return record
        if time.monotonic() - since > GONE_SECONDS:
            terminal.say(f"{record.holder} has not written for {GONE_SECONDS:.0f} s: nobody carries it out.")
            return record
        time.sleep(POLL_SECONDS)


def _under_way(lease: Lease, asked: Asked) -> Record:
    found = lease.look()
    if found is None or found.over:
        raise UsageError(f"No graduation of {asked.aim.model} is under way in {asked.namespace}.")
    return found


def _named(asked: Asked) -> Asked:
    """With the model's own name. Raises UsageError for what is none that runs in the cluster."""
    spec = asked.file.spec
    model = spec.aliases.get(asked.aim.model, asked.aim.model)
    if model not in spec.models or not spec.models[model].ours:
        there = ", ".join(name for name, about in spec.models.items() if about.ours) or "none"
        raise UsageError(f'The file has no model "{model}" that runs in a cluster.', f"It has: {there}.")
    return replace(asked, aim=replace(asked.aim, model=model))


def _lease(api: Api, asked: Asked) -> Lease:
    return Lease(api, asked.namespace, record_name(object_name(asked.aim.model)), myself())


def _gateways(api: Api, asked: Asked) -> Gateways:
    return Gateways(api, asked.namespace, asked.aim.model, os.environ.get(KEY))
