"""An OpenAI-compatible server around OpenVINO GenAI: `python -m headrace.runners.openvino SPEC`, with SPEC as JSON.

`model` is a GGUF file or a folder in OpenVINO's format, `context` tokens per request, `slots` requests at once, `batch`
tokens per step, `cache_bytes` the KV cache (0: enough for all slots). Exit codes as in `serving.py`; 1 when OpenVINO's
pipeline broke, which fails what runs.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.runners import serving
from headrace.runners.openvino_app import application
from headrace.runners.openvino_pipeline import BLOCK_TOKENS, Batching
from headrace.runners.openvino_request import Reader
from headrace.runners.openvino_text import vocabulary
from headrace.runners.openvino_weights import folder, silence


def main() -> None:
    """Load the model, serve until told to stop. Does not return."""
    spec = serving.begin()
    silence()
    model = Path(spec["model"])
    if not model.exists():
        serving.fail(f"cannot load {model}: there is no such file")
    counts = serving.Counts()
    try:
        batching, tokenizer = _load(spec, model, counts)
    except Exception as error:  # of a native library: it may be any
        serving.fail(f"cannot load {model}: {serving.cause(error)}")
    batching.broke = lambda: _end(batching.broken or "")
    reader = Reader(
        spec["context"],
        lambda text: tokenizer.encode(text).input_ids.data[0].tolist(),
        lambda messages: str(tokenizer.apply_chat_template(messages, True)),
    )
    print(f"loaded {spec['name']}", flush=True)
    app = application(spec["name"], reader, batching, counts)
    serving.serve(app, spec["address"], code=lambda: 0 if batching.broken is None else 1)


def _load(spec: dict[str, Any], model: Path, counts: serving.Counts) -> tuple[Batching, Any]:
    kept = os.environ.get("HEADRACE_ENGINE_CACHE")
    cache = Path(kept) / "openvino" if kept else Path(tempfile.mkdtemp(prefix="headrace-openvino-"))
    try:
        ready = model if model.is_dir() else folder(model, cache)
        blocks = _blocks(spec, (ready / "openvino_model.xml").read_text())
        pipe = _pipeline(spec, ready, blocks)
    finally:
        if not kept:
            shutil.rmtree(cache)  # what is loaded stays mapped
    tokenizer = pipe.get_tokenizer()
    names = tokenizer.get_vocab()
    shown = tokenizer.decode([[token] for token in range(max(names.values()) + 1)])
    return Batching(pipe, spec["slots"], blocks, vocabulary(names, shown), counts, _tensor), tokenizer


def _pipeline(spec: dict[str, Any], ready: Path, blocks: int) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = blocks
    scheduler.max_num_seqs = spec["slots"]
    scheduler.max_num_batched_tokens = max(spec["batch"], spec["slots"])
    scheduler.enable_prefix_caching = True  # in the same blocks: a chat's next turn computes only what is new
    properties = {"INFERENCE_NUM_THREADS": spec["threads"], "KV_CACHE_PRECISION": "u8"}
    return openvino_genai.ContinuousBatchingPipeline(str(ready), scheduler, "CPU", properties)


def _tensor(tokens: Sequence[int]) -> Any:
    import numpy
    import openvino

    return openvino.Tensor(numpy.array([tokens], dtype=numpy.int64))


def _blocks(spec: dict[str, Any], model: str) -> int:
    """How many blocks the cache has: enough for every slot, or as many as `cache_bytes` pays for. Raises ValueError.

    `model` is the text of its XML, which has the shape of each layer's cache.
    """
    shape = r'variable_id="past_key_values\.\d+\.(key|value)[^"]*"[^>]*variable_shape="\?,(\d+),\?,(\d+)"'
    size = sum(_block_bytes(kind, int(heads), int(dim)) for kind, heads, dim in re.findall(shape, model))
    each = -(-spec["context"] // BLOCK_TOKENS)
    wanted = spec["slots"] * each
    paid = spec["cache_bytes"] // size if size and spec["cache_bytes"] else wanted
    if paid < each:
        holds = f"a KV cache of {spec['cache_bytes']:,} bytes holds {paid * BLOCK_TOKENS:,} tokens"
        raise ValueError(f"{holds}, below the context of {spec['context']:,}")
    return int(min(wanted, paid))


def _block_bytes(kind: str, heads: int, dim: int) -> int:
    """Of one layer's keys or values in a block: a byte a number, and 8 bytes of scale and zero point, for keys per channel
    and for values per token (measured: 437,760 bytes for 30 layers of 3 heads of 64).
    """
    return heads * (dim * (BLOCK_TOKENS + 8) if kind == "key" else BLOCK_TOKENS * (dim + 8))


def _end(why: str) -> None:
    """Leave with 1, once those that were in it have been told."""
    print(f"OpenVINO's pipeline broke: {why}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
