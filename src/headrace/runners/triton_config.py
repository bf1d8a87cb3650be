"""Triton's `config.pbtxt` from values: what a model takes and gives, how it is batched and how long its queue may be.

After model_config.proto of triton-inference-server/common; every field here was accepted by tritonserver 2.51.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

STRING = "TYPE_STRING"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. `datatype` is its name in the Open Inference Protocol ("FP32", "BYTES"); `dims` are without the
    batch dimension, -1 is any size.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A model's configuration. `batch` is the most inputs in one execution, 0 for a model without a batch dimension.

    `queue` bounds the requests that wait (Triton's own default is no bound); 0 writes no queue policy, for models that
    take requests at once and queue them themselves. A `decoupled` model answers with any number of responses.
    """

    backend: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    batch: int = 0
    delay_seconds: float = 0.0
    queue: int = 0
    instances: int = 1
    instance_kind: str = "KIND_CPU"
    decoupled: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


TEXT_INPUTS = (
    Tensor("text_input", "BYTES", (1,)),
    Tensor("stream", "BOOL", (1,), optional=True),
    Tensor("sampling_parameters", "BYTES", (1,), optional=True),
    Tensor("exclude_input_in_output", "BOOL", (1,), optional=True),
    *(
        Tensor(f"return_{name}", "BOOL", (1,), optional=True)
        for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
    ),
)
TEXT_OUTPUTS = (
    Tensor("text_output", "BYTES", (-1,)),
    Tensor("finish_reason", "BYTES", (-1,)),
    Tensor("num_input_tokens", "UINT32", (1,)),
    Tensor("num_output_tokens", "UINT32", (-1,)),
)
"""Names and types of Triton's vLLM backend."""


def render(config: Config) -> str:
    """The text of `config.pbtxt`."""
    parts = [
        f"backend: {quoted(config.backend)}",
        f"max_batch_size: {config.batch}",
        *(["model_transaction_policy { decoupled: true }"] if config.decoupled else []),
        *(f"input {_tensor(tensor)}" for tensor in config.inputs),
        *(f"output {_tensor(tensor)}" for tensor in config.outputs),
        f"instance_group {{ kind: {config.instance_kind} count: {config.instances} }}",
        *_batching(config),
        *(_parameter(key, value) for key, value in sorted(config.parameters.items())),
    ]
    return "\n".join(parts) + "\n"


def quoted(text: str) -> str:
    """`text` as a string of protobuf's text format."""
    return '"' + "".join(_ESCAPES.get(each) or (f"\\{ord(each):03o}" if ord(each) < 32 else each) for each in text) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"'}


def _tensor(tensor: Tensor) -> str:
    kind = STRING if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    dims = ", ".join(str(size) for size in tensor.dims)
    optional = " optional: true" if tensor.optional else ""
    return f"{{ name: {quoted(tensor.name)} data_type: {kind} dims: [ {dims} ]{optional} }}"


def _batching(config: Config) -> list[str]:
    """The queue policy stands in the batcher's part, which a model without a batch dimension may have as well."""
    if not config.queue:
        return []
    policy = f"default_queue_policy {{ max_queue_size: {config.queue} timeout_action: REJECT }}"
    delay = f"max_queue_delay_microseconds: {round(config.delay_seconds * 1e6)} " if config.batch > 1 else ""
    return [f"dynamic_batching {{ {delay}{policy} }}"]


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
