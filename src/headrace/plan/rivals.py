"""The engine for a model on GPUs, and why the others lose there: the seed table (facts/catalogue/engines.yaml) applied."""

from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.base import Decision


def engine(facts: ModelFacts, machine: Machine, preset: str | None) -> list[Decision]:
    """vLLM first, which is planned on GPUs; then every other, each with its reason. `preset` is KAITO's, if there is one."""
    return [
        Decision(
            "engine",
            "vllm",
            f"continuous batching on {machine.gpus[0].name}: made for many users" if machine.gpus else "wants a GPU",
        ),
        Decision("engine", "kaito", _kaito(machine, preset)),
        Decision("engine", "llamacpp", _llamacpp(facts)),
        Decision("engine", "sglang", "as fast where prefixes are shared; its memory is not modelled yet"),
        Decision("engine", "tgi", "in maintenance mode: only when asked for"),
        Decision("engine", "triton", "for several frameworks in one process, not for one language model"),
    ]


def _kaito(machine: Machine, preset: str | None) -> str:
    """A place that runs vLLM: the simplest way where a preset and Azure's machines are."""
    if machine.sku is None or machine.sku.cloud != "azure":
        return "provisions Azure's machines only, and this is none of their sizes"
    if preset is None:
        return "has no preset for it: a template would have to be written"
    return f"the simplest way on AKS, by its preset {preset}: the same vLLM with KAITO's settings"


def _llamacpp(facts: ModelFacts) -> str:
    if facts.format != "gguf":
        return f"loads GGUF, and the weights are {facts.format}"
    return "loads the file as it is, and batches little: for one user or a few"
