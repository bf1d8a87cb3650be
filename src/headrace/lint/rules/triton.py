"""HR3xx: Triton's model configurations."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context
from headrace.lint.serving import shell_text

_CONFIG = "https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md"


def _configs(context: Context) -> Iterator[tuple[At, str]]:
    """Every config.pbtxt: files of their own, and those in ConfigMaps."""
    for one in context.of("config.pbtxt"):
        yield one.at, one.at.text
    for one in context.of("ConfigMap"):
        for key, value in one.at.get("data").items():
            if key.endswith(".pbtxt"):
                yield value, value.text


def _line(at: At, bare: str, found: re.Match[str]) -> At:
    """The place of a match, in a file of its own; in a ConfigMap its entry."""
    return at if at.path else At(at.value, at.file, {(): bare.count("\n", 0, found.start()) + 1})


def _bare(text: str) -> str:
    return re.sub(r"#[^\n]*", "", text)


@rule("HR313", "warning", "an unbounded queue in Triton", _CONFIG)
def unbounded_queue(context: Context) -> Iterator[Say]:
    """A model with dynamic batching and no max_queue_size takes every request, however long it will wait: under overload all of
    them are late. A bound of 16 answers 503 beyond it (measured)."""
    for at, text in _configs(context):
        bare = _bare(text)
        found = re.search(r"\bdynamic_batching\b", bare)
        if found and "max_queue_size" not in bare:
            what = "Its queue has no bound: under overload every request waits longer than its client."
            fix = "Write default_queue_policy { max_queue_size: … } in dynamic_batching."
            yield Say(_line(at, bare, found), what, fix)


@rule("HR316", "error", "numpy 2 in Triton's Python models", "https://github.com/triton-inference-server/server/releases")
def numpy_two(context: Context) -> Iterator[Say]:
    """The server of 24.10 was built against numpy 1: with numpy 2 its Python models load, and answer with garbage (measured)."""
    for pod in context.pods():
        for container in [*pod.containers, *pod.spec.get("initContainers").each()]:
            image, words = container.get("image").text, shell_text(container)
            old = re.search(r"tritonserver:2[0-4]\.(?:0[1-9]|10)", image)
            installs = re.search(r"pip3? install[^;&|]*\bnumpy\b(?![\w-])(?P<pin>\S*)", words)
            if old and installs and not re.match(r"['\"]?(?:<|~=1|==1)", installs["pin"]):
                what = "pip installs numpy 2 here, and the Python models of this server then answer with garbage."
                yield Say(container, what, "Write numpy<2.")


@rule("HR319", "info", "Triton without dynamic batching", _CONFIG)
def no_batching(context: Context) -> Iterator[Say]:
    """A model that takes batches (max_batch_size above 0) and has no dynamic_batching runs one request at a time: the batches
    have to come from the clients. Triton adds it itself for ONNX Runtime and TensorRT, and does not for Python and PyTorch."""
    for at, text in _configs(context):
        bare = _bare(text)
        size = re.search(r"\bmax_batch_size\s*:\s*(\d+)", bare)
        other = re.search(r"\b(?:dynamic_batching|sequence_batching|ensemble_scheduling|decoupled)\b", bare)
        alone = re.search(r"\b(?:backend|platform)\s*:\s*\"(?:python|pytorch|pytorch_libtorch)\"", bare)
        if size and int(size[1]) > 1 and alone and not other:
            what = f"It takes batches of {size[1]}, and nothing makes batches of requests."
            yield Say(_line(at, bare, size), what, "Add dynamic_batching { }.")
