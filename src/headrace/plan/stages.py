"""Pipeline parallelism: a model's layers cut into stages, each on GPUs of its own, and each stage as a smaller model."""

from dataclasses import dataclass, replace
from math import ceil

from headrace.facts.model import CacheGroup, ModelFacts


@dataclass(frozen=True, slots=True)
class Stage:
    """Number `number` (from 1) of `count` stages: `layers` of the model's `of`. The first embeds, the last has the head."""

    number: int
    count: int
    layers: int
    of: int

    @property
    def first(self) -> bool:
        return self.number == 1

    @property
    def last(self) -> bool:
        return self.number == self.count

    @property
    def share(self) -> float:
        """Of the layers."""
        return self.layers / self.of

    @property
    def ends(self) -> int:
        """How many of the two matrices beside the layers it holds, embedding and output head."""
        return self.first + self.last

    def __str__(self) -> str:
        return f"stage {self.number} of {self.count} ({self.layers} of {self.of} layers)"


def stages(layers: int, pp: int) -> tuple[Stage, ...]:
    """As vLLM cuts: evenly, what is left one by one from the last but one stage backwards (get_pp_indices).

    The last stage is spared because it has the output head; 61 layers over 4 are 15, 15, 16, 15.
    """
    each, left = divmod(layers, pp)
    return tuple(Stage(number, pp, each + (pp - left <= number < pp), layers) for number in range(1, pp + 1))


def part(facts: ModelFacts, stage: Stage) -> ModelFacts:
    """The stage as a model: its layers' share of everything, and the ends that it holds. The whole where there is one stage.

    Layers are taken to be alike. Layers of each kind of cache are rounded up: a stage may get more of one kind.
    """
    if stage.count == 1:
        return facts
    end = min((facts.vocabulary or 0) * facts.hidden, facts.parameters // 2)
    return replace(
        facts,
        layers=stage.layers,
        parameters=_share(facts.parameters, end, stage),
        weight_bytes=_share(facts.weight_bytes, min(2 * end, facts.weight_bytes // 2), stage),
        cache_bytes_per_token=ceil(facts.cache_bytes_per_token * stage.share),
        cache=tuple(_group(group, stage) for group in facts.cache),
        experts=facts.experts and replace(facts.experts, parameters=ceil(facts.experts.parameters * stage.share)),
        parameters_active=facts.parameters_active
        and _share(facts.parameters_active, min(end, facts.parameters_active // 2), stage),
    )


def _share(total: int, end: int, stage: Stage) -> int:
    """The layers' share of what lies between two ends of `end`, and the ends that the stage holds."""
    return ceil((total - 2 * end) * stage.share) + stage.ends * end


def _group(group: CacheGroup, stage: Stage) -> CacheGroup:
    return replace(group, layers=ceil(group.layers * stage.share))
