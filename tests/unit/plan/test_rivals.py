"""The engine on GPUs and why the others lose, by the model and the machine."""

import pytest

from headrace.facts import catalogue, request
from headrace.facts.model import ModelFacts
from headrace.plan.rivals import engine
from tests.known_models import LLAMA_8B, SMOLLM2


@pytest.mark.parametrize(
    ("facts", "machine", "preset", "loser", "words"),
    [
        # on Azure a preset is the simplest way
        (LLAMA_8B, "azure:Standard_NC24ads_A100_v4", "llama-3.1-8b-instruct", "kaito", "by its preset llama-3.1-8b-instruct"),
        (LLAMA_8B, "azure:Standard_NC24ads_A100_v4", None, "kaito", "no preset"),
        (LLAMA_8B, "A100-80GB", "llama-3.1-8b-instruct", "kaito", "Azure's machines only"),  # a preset does not help elsewhere
        (LLAMA_8B, "A100-80GB", None, "llamacpp", "loads GGUF, and the weights are safetensors"),
        (SMOLLM2, "A100-80GB", None, "llamacpp", "one user or a few"),
        (LLAMA_8B, "A100-80GB", None, "tgi", "maintenance"),
    ],
)
def test_every_engine_has_its_reason(facts: ModelFacts, machine: str, preset: str | None, loser: str, words: str) -> None:
    (here,) = request.machine(machine, catalogue.gpus(), catalogue.every_sku())
    decisions = engine(facts, here, preset)
    assert decisions[0].value == "vllm"
    assert words in next(decision.reason for decision in decisions if decision.value == loser)
    assert {decision.value for decision in decisions} <= {use.name for use in catalogue.engine_uses()}
