"""The flags of each engine's server, and what becomes of each in our file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.importing import takes
from headrace.importing.base import Flag, Found
from headrace.importing.takes import Take, count, lost, made, option, passed, secret, task
from headrace.importing.words import Word, parsed, secret_name, secret_value, unresolved

_ADDRESS = made("Headrace decides where its engines listen")
_FRACTION = made("a fraction of all memory; Headrace gives each engine its bytes by the plan")
_LOGS = made("Headrace sets the engines' logs")
_REMOTE = lost("runs code from the hub; where the model needs it, add it to the engine's args knowingly")
_PLANNED = lost("the plan decides how a model is split; tensor_parallel is the key that fixes it")
_DRAIN = made("Headrace drains before it stops an engine")
_CACHE = made("weights are in Headrace's own cache (weights.cache)")
_QUEUE = made("the gateway has the queue (gateway.queue)")
_METRICS = made("Headrace reads the engines' metrics itself")
_RANKS = tuple(
    f"--data-parallel-{end}"
    for end in ("size", "size-local", "rank", "start-rank", "address", "rpc-port", "backend", "hybrid-lb", "external-lb")
)
_NODES = ("--distributed-executor-backend", "--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless")
_DTYPES = {
    **{"auto": "auto", "half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float": "float32", "float32": "float32"}
}


@dataclass(frozen=True, slots=True)
class Language:
    """How one server's command line is read. `rest` is for flags without an entry; `variables` are flags by another name."""

    takes: Mapping[str, Take]
    rest: Take
    short: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


def _embeds(found: Found, flag: Flag) -> None:
    """vLLM's --task, and --runner since 0.10: pooling is for embedding unless the model is a cross-encoder."""
    if flag.value in ("embed", "embedding", "pooling"):
        found.set("task", "embed")
    elif flag.value in ("score", "classify"):
        found.set("task", "rerank", f"{flag.name} {flag.value}")


def _parallel(found: Found, flag: Flag) -> None:
    count("tensor_parallel", above=1)(found, flag)


def _file_of_hub(found: Found, flag: Flag) -> None:
    found.pick = flag.value


def _hub(found: Found, flag: Flag) -> None:
    """llama.cpp's org/name[:Q4_K_M]."""
    found.location, _, pick = flag.value.partition(":")
    found.pick = pick or found.pick


def _cache_type(found: Found, flag: Flag) -> None:
    if flag.value in ("f16", "q8_0", "q4_0"):
        found.options["cache_type"] = flag.value
    else:
        lost("cache_type is f16, q8_0 or q4_0")(found, flag)


def _ollama(found: Found, flag: Flag) -> None:
    lost("Ollama keeps models in a store of its own")(found, flag)


VLLM = Language(
    {
        **{"--model": takes.model, "--revision": takes.revision, "--served-model-name": takes.served},
        **{"--max-model-len": count("context"), "--max-num-seqs": count("slots"), "--tensor-parallel-size": _parallel},
        **{"--quantization": takes.quantization, "--dtype": option("dtype", values=_DTYPES)},
        **{"--lora-modules": takes.adapters, "--enable-lora": lambda found, flag: None, "--max-loras": made("one per adapter")},
        **{"--task": _embeds, "--runner": _embeds, "--convert": _embeds},
        **dict.fromkeys(("--host", "--port", "--uds", "--root-path"), _ADDRESS),
        **dict.fromkeys(("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--num-gpu-blocks-override"), _FRACTION),
        **dict.fromkeys(("--pipeline-parallel-size", "--prefill-context-parallel-size", *_RANKS, *_NODES), _PLANNED),
        **dict.fromkeys(("--disable-log-requests", "--disable-log-stats", "--uvicorn-log-level"), _LOGS),
        **dict.fromkeys(("--api-key", "--hf-token", "--ssl-keyfile", "--ssl-certfile"), secret),
        **{"--trust-remote-code": _REMOTE, "--shutdown-timeout": _DRAIN, "--download-dir": _CACHE},
        **{"--device": made("the machine says it")},
    },
    rest=passed,
    short={
        **{"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dp": "--data-parallel-size"},
        **{"-dpl": "--data-parallel-size-local", "-dpn": "--data-parallel-rank", "-dpr": "--data-parallel-start-rank"},
        **{"-dpa": "--data-parallel-address", "-dpp": "--data-parallel-rpc-port", "-dpb": "--data-parallel-backend"},
        **{"-dph": "--data-parallel-hybrid-lb", "-dpe": "--data-parallel-external-lb", "-ep": "--enable-expert-parallel"},
        **{"-pcp": "--prefill-context-parallel-size", "-dcp": "--decode-context-parallel-size"},
        **{"-n": "--nnodes", "-r": "--node-rank"},
        **{"-q": "--quantization", "--hf-overrides": "--hf-overrides"},
    },
)

SGLANG = Language(
    {
        **{"--model-path": takes.model, "--revision": takes.revision, "--served-model-name": takes.served},
        **{"--context-length": count("context"), "--max-running-requests": count("slots"), "--tp-size": _parallel},
        **{"--quantization": takes.quantization, "--is-embedding": task("embed"), "--lora-paths": takes.adapters},
        **dict.fromkeys(("--host", "--port"), _ADDRESS),
        **dict.fromkeys(("--mem-fraction-static", "--max-total-tokens"), _FRACTION),
        **dict.fromkeys(("--pp-size", "--dp-size", "--nnodes", "--node-rank", "--dist-init-addr"), _PLANNED),
        **dict.fromkeys(("--log-level", "--log-level-http", "--log-requests"), _LOGS),
        **{"--api-key": secret, "--admin-api-key": secret, "--trust-remote-code": _REMOTE, "--enable-metrics": _METRICS},
        **{"--download-dir": _CACHE, "--device": made("the machine says it")},
    },
    rest=passed,
    short={
        **{"--model": "--model-path", "--tp": "--tp-size", "--tensor-parallel-size": "--tp-size"},
        **{"--pipeline-parallel-size": "--pp-size", "--dp": "--dp-size", "--data-parallel-size": "--dp-size"},
    },
)

_TGI = {
    **{"--model-id": takes.model, "--revision": takes.revision, "--served-model-name": takes.served},
    **{"--max-total-tokens": count("context"), "--max-batch-size": count("slots"), "--num-shard": _parallel},
    **{"--quantize": takes.quantization, "--sharded": made("tensor_parallel says it"), "--lora-adapters": takes.adapters},
    **dict.fromkeys(("--max-input-tokens", "--max-input-length"), made("context holds prompt and answer")),
    **dict.fromkeys(("--hostname", "--port", "--prometheus-port"), _ADDRESS),
    **{"--max-concurrent-requests": _QUEUE, "--cuda-memory-fraction": _FRACTION, "--huggingface-hub-cache": _CACHE},
    **{"--api-key": secret, "--trust-remote-code": _REMOTE, "--graceful-termination-timeout": _DRAIN},
    **dict.fromkeys(("--json-output", "--otlp-endpoint", "--otlp-service-name"), _LOGS),
}
TGI = Language(_TGI, rest=passed, variables={flag[2:].replace("-", "_").upper(): flag for flag in _TGI})

TEI = Language(
    {
        **{"--model-id": takes.model, "--revision": takes.revision, "--served-model-name": takes.served},
        **dict.fromkeys(("--hostname", "--port", "--prometheus-port", "--uds-path"), _ADDRESS),
        **{"--api-key": secret, "--hf-token": secret, "--hf-api-token": secret, "--huggingface-hub-cache": _CACHE},
    },
    rest=lost("Text Embeddings Inference is no engine of Headrace, and another has no such flag"),
    variables={"MODEL_ID": "--model-id", "REVISION": "--revision"},
)

LLAMACPP = Language(
    {
        **{"--model": takes.model, "--hf-repo": _hub, "--hf-file": _file_of_hub, "--model-url": takes.model},
        **{"--ctx-size": count("context"), "--parallel": count("slots"), "--alias": takes.served},
        **{"--threads": option("threads"), "--ubatch-size": option("batch"), "--cache-type-k": _cache_type},
        **{"--cache-type-v": made("cache_type is one for both"), "--lora": lost("adapters are for vLLM")},
        **{"--embedding": task("embed"), "--reranking": task("rerank")},
        **dict.fromkeys(("--host", "--port", "--path"), _ADDRESS),
        **dict.fromkeys(("--api-key", "--api-key-file", "--hf-token"), secret),
        **{
            "--n-gpu-layers": made("where its layers go is planned"),
            "--metrics": _METRICS,
            "--batch-size": made("batch says it"),
        },
        **{"--jinja": made("chat templates are always used"), "--cont-batching": made("always on")},
    },
    rest=lost("the llama.cpp engine takes no flags but its settings"),
    short={
        **{"-m": "--model", "-hf": "--hf-repo", "-hfr": "--hf-repo", "-hff": "--hf-file", "-mu": "--model-url"},
        **{"-c": "--ctx-size", "-np": "--parallel", "-a": "--alias", "-t": "--threads", "-ub": "--ubatch-size"},
        **{"-b": "--batch-size", "-ctk": "--cache-type-k", "-ctv": "--cache-type-v", "-ngl": "--n-gpu-layers"},
        **{"--embeddings": "--embedding", "--rerank": "--reranking", "--gpu-layers": "--n-gpu-layers", "-cb": "--cont-batching"},
    },
    variables={
        **{"LLAMA_ARG_MODEL": "--model", "LLAMA_ARG_HF_REPO": "--hf-repo", "LLAMA_ARG_HF_FILE": "--hf-file"},
        **{"LLAMA_ARG_MODEL_URL": "--model-url", "LLAMA_ARG_CTX_SIZE": "--ctx-size", "LLAMA_ARG_N_PARALLEL": "--parallel"},
        **{"LLAMA_ARG_THREADS": "--threads", "LLAMA_ARG_UBATCH": "--ubatch-size", "LLAMA_ARG_ALIAS": "--alias"},
        **{"LLAMA_ARG_N_GPU_LAYERS": "--n-gpu-layers", "LLAMA_ARG_EMBEDDINGS": "--embedding", "LLAMA_ARG_PORT": "--port"},
        **{"LLAMA_ARG_HOST": "--host"},
    },
)

TRITON = Language(
    {
        **dict.fromkeys(("--model-repository", "--model-store"), takes.model),
        **dict.fromkeys(("--http-port", "--grpc-port", "--metrics-port", "--http-address", "--grpc-address"), _ADDRESS),
        **dict.fromkeys(("--allow-metrics", "--allow-gpu-metrics"), _METRICS),
        **{"--exit-timeout-secs": _DRAIN, "--log-verbose": _LOGS},
    },
    rest=lost("the Triton engine takes no flags but its settings"),
)

LANGUAGES: Mapping[str, Language] = {
    **{"vllm": VLLM, "sglang": SGLANG, "tgi": TGI, "tei": TEI, "llamacpp": LLAMACPP, "triton": TRITON},
    "ollama": Language({}, rest=_ollama),
}
_POSITIONAL = ("vllm",)
"""Servers whose model may stand alone."""


def take(found: Found, words: Sequence[Word]) -> None:
    """Put the flags of the engine's command line into `found`."""
    language = LANGUAGES[found.engine]
    loose, flags = parsed(words, language.short)
    if loose and found.engine in _POSITIONAL:
        found.location = loose[0].text
        loose = loose[1:]
    for word in loose:
        shown = "…" if secret_value(word.text) else word.text[:60]
        found.note("not carried", f"the argument {shown}", "it belongs to no flag", word.line)
    for flag in flags:
        take_flag(found, flag, language)


def take_variable(found: Found, name: str, value: str, line: int) -> bool:
    """Put an environment variable that stands for a flag into `found`; False when it does not."""
    language = LANGUAGES[found.engine]
    flag = language.variables.get(name)
    if flag is not None:
        take_flag(found, Flag(flag, (value,), (flag, value), line), language)
    return flag is not None


def take_flag(found: Found, flag: Flag, language: Language) -> None:
    take = language.takes.get(flag.name)
    if take is None and secret_name(flag.name):
        take = secret
    if take is not None and any(unresolved(value) for value in flag.values) and take is not secret:
        take = lost("its variable has no value here")
    (take or language.rest)(found, flag)
