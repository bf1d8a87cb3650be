"""How long a start is expected to take where none was measured."""

CPU_START_SECONDS = 5.0
GPU_START_SECONDS = 90.0
"""Of vLLM on GPUs, without reading weights: compiling and capturing graphs took 20 to 90 s in published logs."""
READ_BYTES_PER_SECOND = 200e6
"""Of a disk or a network that is not the fastest."""


def start_seconds(read_bytes: float, *, on_gpu: bool) -> float:
    """Seconds from the decision to the first answer of a replica that reads so many bytes."""
    return (GPU_START_SECONDS if on_gpu else CPU_START_SECONDS) + read_bytes / READ_BYTES_PER_SECOND
