"""The record of a graduation in a cluster: a ConfigMap of ours that says where it stands, for whoever comes next."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.control.graduation import OVER, Aim, Phase
from headrace.targets.kubernetes.order import COMPONENT, INSTANCE, OURS, Manifest, Ref
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.kubernetes.sides import RECORDS

RECORD = "graduation.json"
_MOST_SAID = 200


class Record(msgspec.Struct, frozen=True):
    """One graduation, as the cluster keeps it. `old` and `new` are what the objects of both sides are called."""

    aim: Aim
    phase: Phase
    old: str
    new: str
    before: dict[str, Any]
    """What the gateways were told of the model before."""
    after: dict[str, Any] = {}
    """What they are told when it is done."""
    reason: str = ""
    story: tuple[tuple[float, str], ...] = ()
    """(seconds since 1970, sentence)."""
    holder: str = ""
    """Who carries it out; empty when nobody does."""
    beat: int = 0
    """Counts what the holder wrote: one that stands still has gone."""
    by_file: bool = False
    """Whether the file said what it moves to, and no option did."""
    abort: str = ""
    """Who asked to go back."""

    @property
    def over(self) -> bool:
        return self.phase in OVER

    def at(self, phase: Phase, reason: str, now: float) -> "Record":
        """It stands elsewhere now."""
        story = (*self.story, (now, f"{phase}: {reason}"))[-_MOST_SAID:]
        return msgspec.structs.replace(self, phase=phase, reason=reason, story=story)

    def __str__(self) -> str:
        return f"{self.aim.model} is on its way from {self.old} to {self.new} ({self.phase})"


def record_name(called: str) -> str:
    """The ConfigMap with the record of a model whose name makes `called` (`object_name`)."""
    return f"graduation-{called}"


def kept(record: Record, name: str, namespace: str) -> dict[str, Any]:
    """The record as an object of ours."""
    labels = {**OURS, INSTANCE: record.new, COMPONENT: RECORDS}
    about = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {RECORD: msgspec.json.encode(record).decode()}}


def read(manifest: Manifest) -> Record | None:
    """The record in an object; None where it is none, or cannot be read."""
    if (manifest["metadata"].get("labels") or {}).get(COMPONENT) != RECORDS:
        return None
    try:
        return msgspec.json.decode((manifest.get("data") or {}).get(RECORD, ""), type=Record)
    except msgspec.MsgspecError:
        return None


def records(live: Mapping[Ref, Manifest]) -> list[Record]:
    """Every record among objects of ours."""
    return [found for each in live.values() if each["kind"] == "ConfigMap" and (found := read(each)) is not None]


def refuse(found: Sequence[Record]) -> None:
    """Raises ClusterError while a model is on its way: what a file says would cut it short."""
    if on_its_way := [each for each in found if not each.over]:
        model = on_its_way[0].aim.model
        raise ClusterError(
            f"{on_its_way[0]}, and applying would cut that short; nothing was written.",
            f"headrace graduate {model} --cluster goes on with it, with --abort it goes back.",
        )
