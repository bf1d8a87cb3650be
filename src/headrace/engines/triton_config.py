"""Model repositories for the back ends of NVIDIA's images, as {path: text}, and the command that serves them.

Not run here: no image, no GPU. Layouts after vllm_backend @8de0c14 and TensorRT-LLM's llmapi (tensorrtllm_backend @0b9d7d5);
the syntax of `config.pbtxt` is the one that tritonserver 2.51 read in our tests (`runners/triton_config.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from headrace.runners.triton_config import Config, Tensor, render

__all__ = ["Backend", "Config", "Tensor", "command", "repository"]

Backend = Literal["onnxruntime", "vllm", "tensorrt_llm"]

IMAGES: Mapping[Backend, str] = {
    "onnxruntime": "nvcr.io/nvidia/tritonserver:26.07-py3",
    "vllm": "nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3",
    "tensorrt_llm": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
}

HTTP_PORT, METRICS_PORT = 8000, 8002


def repository(name: str, backend: Backend, config: Config, arguments: Mapping[str, Any] | None = None) -> Mapping[str, str]:
    """The files of one model, but for its weights.

    `config` says what an ONNX model takes and gives and how it is batched, its weights go to `NAME/1/model.onnx`. Text models
    batch by themselves: of `config` only parameters are used, and `arguments` are those of vLLM's AsyncEngineArgs or of
    TensorRT-LLM's LLM(). For TensorRT-LLM the `model.py` and `helpers.py` of its own release belong beside `model.yaml`.
    """
    given = dict(arguments or {})
    if backend == "vllm":
        own = Config("vllm", instance_kind="KIND_MODEL", parameters={"REPORT_CUSTOM_METRICS": "true", **config.parameters})
        return {
            f"{name}/config.pbtxt": render(own),
            f"{name}/1/model.json": _json({"disable_log_stats": False, **given}),
        }
    if backend == "tensorrt_llm":
        # JSON is YAML. Decoupled is what streaming needs; the back end reads both from here and not from config.pbtxt.
        settings = {"backend": "pytorch", **given, "triton_config": {"max_batch_size": 0, "decoupled": True}}
        return {
            f"{name}/config.pbtxt": render(Config("python", decoupled=True, parameters=config.parameters)),
            f"{name}/1/model.yaml": _json(settings),
        }
    return {f"{name}/config.pbtxt": render(replace(config, backend="onnxruntime"))}


def command(models: Sequence[str], folder: str = "/models", drain_seconds: int = 600) -> tuple[str, ...]:
    """tritonserver over a repository in `folder`. A broken model does not stop its neighbours. Probes of Kubernetes come from
    elsewhere than loopback, so it listens everywhere, and nobody can load, unload or map memory.
    """
    return (
        "tritonserver",
        f"--model-repository={folder}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--http-port={HTTP_PORT}",
        "--http-restricted-api=shared-memory,model-repository,trace,logging:headrace-closed=\r\n\r\n",
        "--allow-grpc=false",
        f"--metrics-port={METRICS_PORT}",
        f"--exit-timeout-secs={drain_seconds}",
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
