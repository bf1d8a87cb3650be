"""What the planner expects is a range, for the load that was seen; where machine or model are not known it is nothing."""

from dataclasses import replace

from headrace.advice.base import Observed, Request, Sample
from headrace.advice.gains import Expected, expected
from headrace.advice.signals import signals
from headrace.facts import catalogue
from headrace.spec.load import loads
from headrace.weights.source import parse

FILE = """
models:
  chat: {source: "hf:meta-llama/Llama-3.1-8B-Instruct", engine: vllm, slots: 64, for: {ttft: 2s, tpot: 30ms}}
machine: 1 x A100-80GB
"""
SPEC = loads(FILE, "headrace.yaml", parse)
FACTS = catalogue.known_model("meta-llama/Llama-3.1-8B-Instruct")
SEEN = Observed(
    "chat", "vllm", 0.0, 3600.0, slots=64, most=1, here=False,
    samples=[Sample(15.0 * n, 60, 64, 1) for n in range(240)],
    requests=[Request(15.0 * n, 200, 1500, 300, 0.0, 8.0) for n in range(240)],
    short_of_memory=[15.0 * n for n in range(240)],
)  # fmt: skip


def test_more_replicas_and_fewer_bits_are_told_as_ranges() -> None:
    found = expected(SEEN, SPEC, SPEC.models["chat"], FACTS).gains
    more, fewer = found["throughput insufficient"], found["memory binds"]
    assert " tokens/s with " in more.said
    assert "instead of" in more.said
    assert more.command == "headrace plan --machine '1 x A100-80GB' --for users=124"
    assert "a cache of" in fewer.said


def test_the_signal_tells_them() -> None:
    seen = replace(SEEN, gains=expected(SEEN, SPEC, SPEC.models["chat"], FACTS).gains)
    told = {one.name: one for one in signals(seen) if one.holds == "holds"}
    assert set(told) == {"throughput insufficient", "memory binds"}
    assert "by the planner" in told["throughput insufficient"].gain


def test_without_a_machine_or_a_model_nothing_is_expected() -> None:
    assert expected(SEEN, SPEC, SPEC.models["chat"], None) == Expected()
    nowhere = loads(FILE.replace("machine: 1 x A100-80GB", ""), "headrace.yaml", parse)
    assert expected(SEEN, nowhere, nowhere.models["chat"], FACTS) == Expected()
    assert expected(replace(SEEN, samples=()), SPEC, SPEC.models["chat"], FACTS) == Expected()
