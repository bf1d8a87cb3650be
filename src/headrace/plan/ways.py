"""The ways to run a model on the GPUs of one machine that are worth a look: number format, tensor and pipeline parallelism."""

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.facts.hardware import Gpu, Machine
from headrace.facts.model import ModelFacts
from headrace.plan.intent import Wanted
from headrace.plan.vllm.weights import refuse_parallel

_PARALLEL = (1, 2, 4, 8, 16)
_MOST_STAGES = 16
_LEAST_CAPABILITY = 7.5  # vLLM's documentation on installing for CUDA
_FULL_FORMATS = ("BF16", "F16", "F32", "bfloat16", "float16", "float32")
_DIRECT = ("nvlink", "xgmi")
"""Links over which all-reduces are cheap enough for tensor parallelism to be the only split that is looked at."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A number format of the weights: how many bytes are left of the original's, the least compute capability, what it costs."""

    name: str
    share: float
    capability: float
    quality: str


AS_THEY_ARE = Variant("none", 1.0, 0.0, "")
VARIANTS = (
    AS_THEY_ARE,
    # fp8: embeddings and head stay in 16 bits; vLLM makes it at load. awq: 4.25 bits a weight with scales, in a checkpoint.
    Variant("fp8", 0.54, 8.9, "within 1 % of the original in published evaluations; made at load"),
    Variant("awq", 0.33, 7.5, "a few percent on reasoning and code in published evaluations; needs a checkpoint made with AWQ"),
)
"""The least loss of quality first."""


@dataclass(frozen=True, slots=True)
class Way:
    """One replica's weights and how it is split: every layer over `tensor_parallel` GPUs, the layers over `pipeline_parallel`."""

    variant: Variant
    tensor_parallel: int
    pipeline_parallel: int = 1

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def split(self) -> str:
        return f"tensor {self.tensor_parallel} x pipeline {self.pipeline_parallel}"

    def on(self, gpu: Gpu) -> str:
        """`8 x L4 (tensor 4 x pipeline 2), fp8`."""
        split = f" ({self.split})" if self.pipeline_parallel > 1 else ""
        return f"{self.gpus} x {gpu.name}{split}" + (f", {self.variant.name}" if self.variant is not AS_THEY_ARE else "")


def variants(facts: ModelFacts, machine: Machine, wanted: Wanted) -> list[Variant]:
    """The number formats that the card computes with and that `wanted` leaves open."""
    name = "none" if wanted.quantization == facts.quantization else wanted.quantization  # they are of that format already
    capability = machine.gpus[0].compute_capability if machine.gpus else None
    quantized = facts.quantization in _FULL_FORMATS and capability is not None and not facts.encoder
    known = VARIANTS if quantized else VARIANTS[:1]
    return [variant for variant in known if (capability or 0) >= variant.capability and name in ("auto", variant.name)]


def plain(facts: ModelFacts, variant: Variant, machine: Machine, wanted: Wanted) -> list[Way]:
    """Without a pipeline, or with the one that is wanted. Encoders are small: one GPU each, unless the user says otherwise."""
    open_ways = _PARALLEL[:1] if facts.encoder else _PARALLEL
    parallel = open_ways if wanted.tensor_parallel == "auto" else (wanted.tensor_parallel,)
    return [Way(variant, tp, wanted.stages) for tp in parallel if tp * wanted.stages <= len(machine.gpus)]


def pipelines(facts: ModelFacts, variant: Variant, machine: Machine, wanted: Wanted) -> Iterator[list[Way]]:
    """With one, by tensor parallelism, and the fewest stages first; none where the user fixed how a replica is split."""
    fixed = wanted.tensor_parallel != "auto" or wanted.stages > 1
    if facts.encoder or fixed or no_engine(machine.gpus[0], Way(variant, 1, 2)):
        return
    for tp in _PARALLEL:
        most = min(_MOST_STAGES, facts.layers, len(machine.gpus) // tp)
        if most > 1 and not refuse_parallel(facts, tp, 1):
            yield [Way(variant, tp, pp) for pp in range(2, most + 1)]


def direct(gpu: Gpu) -> bool:
    """Whether GPUs reach each other without the PCIe bus."""
    return gpu.link_kind in _DIRECT


def no_engine(gpu: Gpu, way: Way) -> str | None:
    """Why vLLM does not run so on this GPU, None where it does."""
    if gpu.name.startswith("Apple"):
        return "vLLM does not run on Apple GPUs; llama.cpp does, with GGUF weights"
    if gpu.compute_capability is not None and gpu.compute_capability < _LEAST_CAPABILITY:
        return f"vLLM wants compute capability {_LEAST_CAPABILITY}, {gpu.name} has {gpu.compute_capability}"
    return f"{gpu.name} has no link to others" if way.gpus > 1 and not gpu.link else None


def impossible(facts: ModelFacts, machine: Machine, wanted: Wanted) -> str | None:
    """Why there is no way at all as `wanted`, None where there is one."""
    count = len(machine.gpus)
    if not count:
        return None
    if wanted.tensor_parallel != "auto" and wanted.tensor_parallel > count:
        return f"tensor_parallel {wanted.tensor_parallel} takes as many GPUs, and there {'is' if count == 1 else 'are'} {count}"
    if variants(facts, machine, wanted):
        return None
    if facts.encoder:
        return f"an encoder is planned with its weights as they are, not with {wanted.quantization}"
    if facts.quantization not in _FULL_FORMATS:
        return f"the weights are {facts.quantization} already: quantization {wanted.quantization} needs them in 16 bits"
    return f"{machine.gpus[0].name} cannot compute with quantization {wanted.quantization}; write auto or none"
