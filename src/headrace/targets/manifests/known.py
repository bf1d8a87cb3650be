"""What is known before a model is placed: its facts, the machines, and where images have things."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.engines.base import Placement
from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.local_speed import Rates
from headrace.plan.offer import Knowledge
from headrace.plan.sharing import Shared
from headrace.spec.kubernetes import KubernetesSpec
from headrace.spec.model import ModelSpec
from headrace.targets.manifests.containers import CONTAINERS
from headrace.traffic import Task

WEIGHTS = "/weights"
"""Where a model's volume is mounted."""

READY = f"{WEIGHTS}/ready"
"""The weights in it, when all are there."""

CODE = "/code"
"""Where a file of the user's own is mounted."""

LARGEST_FILE = 700_000
"""Bytes of a file that go into a ConfigMap, which holds 1 MiB, as base64 where they are no text."""

READ_RATE = 100_000_000
"""Bytes per second at which weights are read, assumed: about what a premium file share of 100 GiB is sold with."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model: facts of a language model, or an artifact with its content."""

    facts: ModelFacts | None = None
    artifact: Artifact | None = None
    content: bytes = b""
    source: str = ""
    """What to fetch, as the spec has it."""
    preset: str | None = None
    """KAITO's name for it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all models are planned with: the machines asked about (none: without GPUs), and what was measured."""

    machines: tuple[Machine, ...]
    knowledge: Knowledge
    rates: Rates = field(default_factory=Rates)
    shared: Shared | None = None
    """Where models sit that share GPUs, if any do."""


def image_of(name: str, placement: Placement, spec: KubernetesSpec) -> str:
    given: Mapping[str, str] = spec.images
    if image := given.get(name) or given.get(placement.engine):
        return image
    if placement.options.get("command"):
        raise PlanError("its command needs an image that has it.", f"Write `kubernetes: {{images: {{{name}: NAME:TAG}}}}`.")
    chosen = CONTAINERS[placement.engine].image
    return chosen(placement) if chosen else ""


def task_of(model: ModelSpec, facts: ModelFacts) -> Task:
    if model.task == "auto":
        return "embed" if facts.encoder else "generate"
    return model.task
