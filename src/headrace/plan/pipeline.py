"""The time of a replica's step when it is a pipeline: latencies of stages add up, micro-batches keep all of them at work.

Requests are cut into as many micro-batches as there are stages, if there are as many requests. A token goes through all stages,
and its next one can begin when the last is done and the first stage has served the other micro-batches: the longer of the two
counts. With one stage it is the plain roofline. Not calibrated: no pipeline was among the measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.facts.model import ModelFacts
from headrace.plan.roofline import Card, Rates, Step, Work, decode_step, decode_work, prefill_step, prefill_work
from headrace.plan.stages import part, stages

_SENT_BYTES = 2 * 2
"""A stage sends hidden state and residual, 16 bits each, per token and hidden unit (vLLM's IntermediateTensors)."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model on `tp` GPUs in each of its `parts`: weights and cache in bits per number."""

    parts: Sequence[ModelFacts]
    tp: int
    weight_bits: float
    kv_bits: float
    card: Card
    rates: Rates

    @classmethod
    def of(cls, facts: ModelFacts, tp: int, pp: int, weight_bits: float, kv_bits: float, card: Card, rates: Rates) -> "Pipeline":
        """`facts` cut into `pp` stages."""
        return cls([part(facts, stage) for stage in stages(facts.layers, pp)], tp, weight_bits, kv_bits, card, rates)

    def decode(self, batch: float, context: float) -> Step:
        """One token for each of `batch` requests of `context` tokens."""
        waves = max(1.0, min(len(self.parts), batch))
        micro = batch / waves
        works = [decode_work(one, self.tp, micro, context, self.weight_bits, self.kv_bits) for one in self.parts]
        steps = [decode_step(work, self.card, self.rates) for work in self._sending(works, micro)]
        return _cycle(steps, waves)

    def prefills(self, tokens: float) -> list[Step]:
        """`tokens` of a prompt on each stage: their sum is the way through, the slowest what holds up others."""
        works = [prefill_work(one, self.tp, tokens, 0, self.weight_bits) for one in self.parts]
        return [prefill_step(work, self.card, self.rates) for work in self._sending(works, tokens)]

    def _sending(self, works: Sequence[Work], tokens: float) -> list[Work]:
        """With what all stages but the last send to the next."""
        bytes_sent = tokens * self.parts[0].hidden * _SENT_BYTES
        sending = [
            replace(work, reduced_bytes=work.reduced_bytes + bytes_sent, reductions=work.reductions + 1) for work in works[:-1]
        ]
        return [*sending, works[-1]]


def _cycle(steps: Sequence[Step], waves: float) -> Step:
    """Seconds between two tokens of a request, with the parts of all stages in proportion."""
    if len(steps) == 1:
        return steps[0]
    through = sum(step.seconds for step in steps)
    longer = max(through, waves * max(step.seconds for step in steps)) / through
    return Step(
        through * longer,
        sum(step.memory for step in steps) * longer,
        sum(step.compute for step in steps) * longer,
        sum(step.interconnect for step in steps) * longer,
        sum(step.overhead for step in steps) * longer,
    )
