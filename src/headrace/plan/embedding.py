"""How fast an encoder embeds on a GPU: one pass over each text, computed like a prompt, and nothing after it.

No embedding model was among the measurements: the rates are those of reading prompts, the confidence is low, the range is wide.
"""

from collections.abc import Callable
from dataclasses import replace

from headrace.facts.hardware import Gpu
from headrace.facts.model import CacheGroup, ModelFacts
from headrace.plan.roofline import Rates, Step, card, prefill_step, prefill_work
from headrace.plan.speed import Range, Speed
from headrace.plan.speed_constants import Choice, SpeedConstants

_UNMEASURED = 2.0
"""By how much the range is wider than for prompts: by judgement."""


def embedding_speed(
    facts: ModelFacts, gpu: Gpu, replicas: int, prompt: int, users: int, step_tokens: int, constants: SpeedConstants
) -> Speed:
    """Texts of `prompt` tokens from `users` who each send the next when they have their answer, on `replicas` GPUs.

    `tokens_per_second` counts tokens of texts, `tpot_seconds` is the time of a step with the texts that wait at once.
    """
    choice, each = constants.choose("vllm", gpu), max(1, -(-users // replicas))
    texts = max(1, min(each, step_tokens // prompt))
    step = _step(facts, gpu, prompt, texts * prompt, choice.fit.rates)
    alone = _step(facts, gpu, prompt, prompt, choice.fit.rates)
    rate = replicas * texts * prompt / step.seconds
    low, high = choice.low / _UNMEASURED, choice.high * _UNMEASURED
    return Speed(
        tpot_seconds=Range(step.seconds, step.seconds * low, step.seconds * high),
        tokens_per_second=Range(rate, rate / high, rate / low),
        tokens_per_second_per_gpu=rate / replicas,
        utilisation=1.0,
        limit=step.limit,
        batch=float(texts),
        replicas=replicas,
        step=step,
        prefill_seconds=alone.seconds,
        confidence="low",
        reason=_reason(choice, gpu),
    )


def embedding_times(facts: ModelFacts, gpu: Gpu, prompt: int, rates: Rates) -> Callable[[int, float, int], float]:
    """The seconds of a step, for the simulation: nothing decodes, and the step takes what its tokens take."""
    return lambda batch, context, tokens: _step(facts, gpu, prompt, max(1, tokens), rates).seconds


def _step(facts: ModelFacts, gpu: Gpu, prompt: int, tokens: int, rates: Rates) -> Step:
    """`tokens` of texts of `prompt` each. Every token sees its whole text; looking up an embedding computes nothing."""
    group = CacheGroup("full", facts.layers, facts.kv_heads, 2 * facts.head_dim)
    computed = max(1, facts.parameters - (facts.vocabulary or 0) * facts.hidden)
    bits = facts.weight_bytes * 8 / facts.parameters
    work = prefill_work(replace(facts, cache=(group,), parameters_active=computed), 1, prompt, prompt / 2, bits)
    return prefill_step(replace(work, operations=work.operations * tokens / prompt), card(gpu, bits, facts.quantization), rates)


def _reason(choice: Choice, gpu: Gpu) -> str:
    rates = (
        "the average of all engines and cards" if choice.fit.engine == "any" else f"{choice.fit.engine} on {choice.fit.family}"
    )
    return (
        f"no embedding model was measured on {gpu.name}: the rates are those of reading prompts, {rates}; "
        "HTTP and tokenizing are not in it, and bind first where the model is small."
    )
