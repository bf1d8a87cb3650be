"""What vLLM takes beside weights and cache: numbers by version and card, from data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from headrace.errors import PlanError

MIB = 2**20
GIB = 2**30


class Range(NamedTuple):
    """What is expected, and the worst that a promise is made for."""

    expected: float
    worst: float


@dataclass(frozen=True, slots=True)
class Batch:
    """vLLM's own choice of batch for GPUs of at least `at_least_bytes` whose names have none of `unless_named`."""

    max_num_seqs: int
    serve: int
    llm: int
    at_least_bytes: int = 0
    unless_named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionConstants:
    """The numbers of one version, or of one version on one `card` where a start was learned from.

    `sampler_bytes` are per request of max_num_seqs and vocabulary entry; `graph_bytes` per layer with all 51 batch sizes; the
    rest in bytes per GPU. Units and sources of each stand in plan/constants/vllm.yaml.
    """

    since: tuple[int, int]
    utilization: float
    sampler_bytes: Range
    runtime_bytes: Range
    runtime_parallel_bytes: Range
    graph_bytes: Range
    graphs_counted: bool
    encoder_bytes: Range
    whole_prompts: bool
    batches_in_flight: int
    tokens_are: Literal["blocks", "requests"]
    defaults: tuple[Batch, ...]
    measured: tuple[str, ...]
    source: str
    card: str = ""
    version: str = ""
    """In full, of the start that was learned from."""


@dataclass(frozen=True, slots=True)
class CpuConstants:
    """vLLM on a CPU: bytes of its processes, what compilation adds, tokens per block, and its default batch."""

    runtime_bytes: Range
    compiled_bytes: int
    block: int
    max_num_seqs: int
    max_num_batched_tokens: int


@dataclass(frozen=True, slots=True)
class Constants:
    """All versions, oldest first; `encoders` are model types whose start profiles an image encoder."""

    versions: tuple[VersionConstants, ...]
    encoders: tuple[str, ...]
    cpu: CpuConstants

    def at(self, version: str, card: str = "") -> VersionConstants:
        """The numbers for `version`: learned on that very version and card, or the newest not after it. Raises PlanError."""
        wanted, name = release(version), card_key(card)
        learned = [one for one in self.versions if one.card and one.card == name and one.since == wanted]
        general = [one for one in self.versions if not one.card and one.since <= wanted]
        return (learned or general)[-1]

    def learned_version(self, card: str) -> str | None:
        """The newest version whose start on this card was learned from, None where none was."""
        learned = [one for one in self.versions if one.card and one.card == card_key(card)]
        return max(learned, key=lambda one: one.since).version if learned else None

    def with_learned(self, learned: VersionConstants) -> "Constants":
        """These, with what a start on one card has taught, in place of what was learned there before."""
        kept = [one for one in self.versions if (one.since, one.card) != (learned.since, learned.card)]
        return replace(self, versions=(*kept, learned))


def release(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as `0.11.0`, `v0.8.5.dev3` or `0.10.x`. Raises PlanError."""
    match = re.match(r"v?(\d{1,4})\.(\d{1,4})(?![\dx])", version.strip())
    if not match:
        raise PlanError(f'"{version[:40]}" is not a version of vLLM.', "Write it as 0.33.0.")
    return int(match[1]), int(match[2])


_CARD = re.compile(r"\b(rtx ?pro ?\d+|rtx ?a?\d+|gb\d+|gh\d+|mi\d+x?|[abhltv]\d+s?)\b")


def card_key(name: str) -> str:
    """A card's name reduced to what is compared: `NVIDIA H100 80GB HBM3` and `H100-80` become `h100`."""
    words = " ".join(re.findall(r"[a-z0-9]+", name.lower()[:200]))
    found = _CARD.search(words)
    return (found[0] if found else words).replace(" ", "")


def parse(content: Mapping[str, Any]) -> Constants:
    """The constants of plan/constants/vllm.yaml; an entry states what changed since the one above it."""
    versions: list[VersionConstants] = []
    stated: dict[str, Any] = {}
    for entry in content["versions"]:
        stated |= entry
        versions.append(_version(stated))
    cpu = content["cpu"]
    runtime = Range(*(number * 10**6 for number in cpu["runtime_mb"]))
    on_cpu = CpuConstants(runtime, cpu["compiled_mb"] * 10**6, cpu["block"], cpu["max_num_seqs"], cpu["serve"])
    return Constants(tuple(versions), tuple(content["encoders"]), on_cpu)


def _version(stated: Mapping[str, Any]) -> VersionConstants:
    return VersionConstants(
        since=release(stated["since"]),
        utilization=stated["utilization"],
        sampler_bytes=Range(*stated["sampler_bytes"]),
        runtime_bytes=_mib(stated["runtime_mib"]),
        runtime_parallel_bytes=_mib(stated["runtime_parallel_mib"]),
        graph_bytes=_mib(stated["graph_mib"]),
        graphs_counted=stated["graphs_counted"],
        encoder_bytes=_mib(stated["encoder_mib"]),
        whole_prompts=stated["whole_prompts"],
        batches_in_flight=stated["batches_in_flight"],
        tokens_are=stated["tokens_are"],
        defaults=tuple(_batch(entry) for entry in stated["defaults"]),
        measured=tuple(stated["measured"]),
        source=stated["source"],
    )


def _mib(pair: Sequence[float]) -> Range:
    return Range(pair[0] * MIB, pair[1] * MIB)


def _batch(entry: Mapping[str, Any]) -> Batch:
    named = tuple(entry.get("unless_named", ()))
    return Batch(entry["max_num_seqs"], entry["serve"], entry["llm"], entry.get("at_least_gib", 0) * GIB, named)
