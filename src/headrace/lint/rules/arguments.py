"""HR3xx: what engines are told on their command lines."""

import re
from collections.abc import Iterator

from headrace.lint.base import Edit, Say, position, rule
from headrace.lint.context import Context
from headrace.lint.gpus import known_model
from headrace.lint.serving import Served, engines, ports
from headrace.units import show_bytes

_LONG = 100_000
_LENGTHS = ("--max-model-len", "--context-length", "--max-total-tokens")
_DEFAULTS = {
    **{"--tensor-parallel-size": "1", "--pipeline-parallel-size": "1", "--data-parallel-size": "1", "--dtype": "auto"},
    **{"--load-format": "auto", "--kv-cache-dtype": "auto"},
}
"""vLLM's, as its command line says them (vllm/engine/arg_utils.py)."""
_STRETCHED = ("--hf-overrides", "--rope-scaling", "--rope-theta", "--json-model-override-args")


@rule(
    "HR307",
    "warning",
    "a context that does not fit the model",
    "https://github.com/kaito-project/kaito/blob/main/website/docs/kaito-oom-prevention.md",
)
def context_length(context: Context) -> Iterator[Say]:
    """vLLM refuses to start with a context beyond the model's own limit, and without --max-model-len it wants cache for one
    request of the whole limit: for models of 128k and more often as much again as the weights."""
    for one in engines(context):
        facts = known_model(one.hub) if one.hub and one.engine in ("vllm", "sglang") else None
        if facts is None or facts.context is None or one.env("VLLM_ALLOW_LONG_MAX_MODEL_LEN") is not None:
            continue
        flag = one.flag(*_LENGTHS[:2])
        if flag is None:
            yield from _unset(one, facts.context, facts.cache_bytes_per_token, facts.weight_bytes)
        elif (flag.number or 0) > facts.context and not one.flag(*_STRETCHED):
            what = f"{flag.said} is above the {facts.context} tokens of {one.hub}: it does not start."
            yield Say(flag.at, what, f"Write {facts.context} or less.")


def _unset(one: Served, limit: int, cache: int, weights: int) -> Iterator[Say]:
    need = limit * cache
    if one.lives and limit >= _LONG and need > weights / 2 and one.engine == "vllm":
        what = f"One request of all {limit} tokens takes {show_bytes(need)} of cache beside {show_bytes(weights)} of weights."
        yield Say(
            one.model_at, what, "Write --max-model-len with what is needed; without the memory it does not start.", (), "info"
        )


@rule(
    "HR308",
    "info",
    "comment and value disagree",
    "https://github.com/vllm-project/aibrix/blob/main/samples/quickstart/model.yaml",
)
def comment_disagrees(context: Context) -> Iterator[Say]:
    """A comment says one number of tokens and the value another: somebody will believe the comment."""
    for one in engines(context):
        flag = one.flag(*_LENGTHS)
        if flag is None or not flag.number:
            continue
        line = context.line(flag.at.file, position(flag.words[-1] if flag.words else flag.at)[0])
        said = re.search(r"#.*?\b(\d{1,4})\s*[kK]\b", line)
        if said and flag.number not in _near(int(said[1])):
            what = f"The comment says {said[1]}k, and the value is {flag.value}."
            yield Say(flag.at, what, "Correct one of them.")


def _near(thousands: int) -> range:
    return range(thousands * 980, thousands * 1044)


@rule("HR309", "info", "the model behind --model", "https://github.com/vllm-project/vllm/blob/main/vllm/utils/argparse_utils.py")
def model_flag(context: Context) -> Iterator[Say]:
    """The image's entry point is `vllm serve`, whose model stands alone. --model goes through a shim that logs a deprecation."""
    for one in engines(context):
        flag = one.flag("--model")
        plain = not one.container.get("command") and one.pod is not None
        if one.engine != "vllm" or flag is None or not plain or not (one.newest or (one.version or (0, 0)) >= (0, 11)):
            continue
        words = flag.words
        first = bool(words) and words[0].path[-1] == 0
        edits: tuple[Edit, ...] = ()
        if first and len(words) == 2:
            edits = (Edit("delete", words[0]),)
        elif first and len(words) == 1:
            edits = (Edit("set", words[0], "", flag.value),)
        yield Say(
            flag.at, "vllm serve takes the model alone; --model is the older way.", "Write it first, without --model.", edits
        )


@rule(
    "HR320",
    "error",
    "the engine's command given to its own image",
    "https://github.com/vllm-project/vllm/blob/main/docker/Dockerfile",
)
def command_twice(context: Context) -> Iterator[Say]:
    """The entry point of vLLM's image is `vllm serve`, or the API server itself in older ones: arguments that begin with serve
    take that word for the model, and it does not start."""
    for one in engines(context):
        first = next(one.container.get("args").each(), None)
        own = one.newest or one.version is not None
        if first is not None and own and not one.container.get("command") and first.text in ("serve", "vllm"):
            what = f"The image starts vllm serve itself: {first.text} is taken for the model, and it does not start."
            edits = (Edit("delete", first),) if first.text == "serve" else ()
            yield Say(first, what, "Begin with the model.", edits)


@rule("HR310", "error", "code from the hub is run", "https://docs.vllm.ai/en/latest/usage/security/")
def remote_code(context: Context) -> Iterator[Say]:
    """--trust-remote-code runs Python from the model's repository, with everything that the container may do. Without a pinned
    revision whoever can write to the repository can run what they like here tomorrow."""
    for one in engines(context):
        flag = one.flag("--trust-remote-code")
        if flag is None or flag.value.lower() in ("false", "0"):
            continue
        pinned = one.flag("--code-revision", "--revision") is not None or not one.hub
        what = "It runs Python code from the model's repository" + ("." if pinned else ", whatever is there when it starts.")
        fix = "Leave it out unless the model needs it." if pinned else "Leave it out; where the model needs it, pin --revision."
        yield Say(flag.at, what, fix, (), "info" if pinned else None)


@rule(
    "HR314",
    "warning",
    "answers of 16 tokens",
    "https://github.com/triton-inference-server/server/blob/main/python/openai/README.md",
)
def sixteen_tokens(context: Context) -> Iterator[Say]:
    """Triton's OpenAI frontend answers with 16 tokens when a client sends no limit: answers end in the middle of a sentence."""
    for pod in context.pods():
        for container in pod.containers:
            words = [item for key in ("command", "args") for item in container.get(key).each()]
            started = next((word for word in words if "openai_frontend" in word.text), None)
            if started is not None and not any("--default-max-tokens" in word.text for word in words):
                what = "Clients that send no max_tokens get 16 tokens from this frontend."
                yield Say(started, what, "Add --default-max-tokens, or send max_tokens always.")


@rule(
    "HR315",
    "warning",
    "a port where TGI does not listen",
    "https://github.com/huggingface/text-generation-inference/blob/main/Dockerfile",
)
def tgi_port(context: Context) -> Iterator[Say]:
    """TGI's image listens on port 80 unless --port or PORT says otherwise; its Prometheus port 9000 serves nothing: the metrics
    are on the main port."""
    for one in engines(context):
        moved = one.flag("--port", "-p") or one.env("PORT") is not None
        if one.engine != "tgi" or moved or "ghcr.io/huggingface/text-generation-inference" not in one.image.text:
            continue
        given = [port.get("containerPort") for port in ports(one.container) if port.get("containerPort").number]
        if given and all(port.number not in (80, 9000) for port in given):
            what = f"TGI's image listens on 80, and nothing on {given[0].text}."
            yield Say(given[0], what, f"Write 80, or --port {given[0].text}.")
        annotations = one.pod.template.get("metadata", "annotations") if one.pod else one.container
        if (scraped := annotations.get("prometheus.io/port")).text == "9000":
            yield Say(scraped, "TGI serves no metrics on 9000.", "Write its main port, 80.", (Edit("set", scraped, "", "80"),))


@rule(
    "HR317",
    "info",
    "a claim about TGI that is not so",
    "https://github.com/huggingface/text-generation-inference/blob/main/launcher/src/main.rs",
)
def prefill_claim(context: Context) -> Iterator[Say]:
    """Continuous batching is always on in TGI. --max-batch-prefill-tokens bounds the tokens of one prefill, and nothing else."""
    for one in engines(context):
        flag = one.flag("--max-batch-prefill-tokens")
        if one.engine != "tgi" or flag is None:
            continue
        number = position(flag.at)[0]
        near = context.line(flag.at.file, number - 1).strip(), context.line(flag.at.file, number)
        said = (near[0] if near[0].startswith("#") else "") + near[1].partition("#")[2]
        if re.search(r"continuous[ -]batch|enable[sd]?\b.*batch", said, re.I):
            what = "Continuous batching is always on; this flag bounds a prefill."
            yield Say(flag.at, what, "Correct the comment.")


@rule("HR318", "info", "a flag that says the default", "https://github.com/vllm-project/vllm/blob/main/vllm/engine/arg_utils.py")
def default_flag(context: Context) -> Iterator[Say]:
    """A flag with the value that it has anyway is read, copied and wondered about, and does nothing."""
    for one in engines(context):
        for flag in one.flags if one.engine == "vllm" and one.pod is not None else ():
            if _DEFAULTS.get(flag.name) == flag.value and flag.words:
                yield Say(
                    flag.at,
                    f"{flag.said} is the default.",
                    "Delete it.",
                    (Edit("delete", flag.words[0], count=len(flag.words)),),
                )
