"""What scales models: ScaledObjects and HPAs with their triggers, queries, and the names of metrics that engines export."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.importing import scaling
from headrace.importing.base import At
from headrace.lint.context import Context, Object
from headrace.lint.serving import serves

_VLLM = """
num_requests_running num_requests_waiting num_requests_waiting_by_reason num_requests_swapped engine_sleep_state
kv_cache_usage_perc gpu_cache_usage_perc cpu_cache_usage_perc gpu_prefix_cache_hit_rate cpu_prefix_cache_hit_rate
prefix_cache_queries prefix_cache_hits gpu_prefix_cache_queries gpu_prefix_cache_hits external_prefix_cache_queries
external_prefix_cache_hits mm_cache_queries mm_cache_hits num_preemptions prompt_tokens generation_tokens prompt_tokens_cached
prompt_tokens_by_source prompt_tokens_cached_by_source request_success admission_rejections lora_requests_info cache_config_info
request_prompt_tokens request_generation_tokens iteration_tokens_total request_max_num_generation_tokens request_params_n
request_params_max_tokens request_prefill_kv_computed_tokens time_to_first_token_seconds inter_token_latency_seconds
time_per_output_token_seconds request_time_per_output_token_seconds e2e_request_latency_seconds request_queue_time_seconds
request_inference_time_seconds request_prefill_time_seconds request_decode_time_seconds request_num_preemptions
time_in_queue_requests model_forward_time_milliseconds model_execute_time_milliseconds tokens_total
estimated_flops_per_gpu estimated_read_bytes_per_gpu estimated_write_bytes_per_gpu spec_decode_num_drafts
spec_decode_num_draft_tokens spec_decode_num_accepted_tokens spec_decode_draft_acceptance_rate spec_decode_efficiency
"""
VLLM_METRICS = frozenset(name + end for name in _VLLM.split() for end in ("", "_total", "_bucket", "_sum", "_count"))
"""vLLM's metric names after `vllm:`, old ones too (vllm/v1/metrics/loggers.py; a recorded page of 0.32)."""

WAITING = re.compile(r"num_requests_waiting|tgi_queue_size|num_queue_reqs|headrace_queue_depth")
RUNNING = re.compile(rf"{scaling.RUNNING.pattern}|kv_cache_usage|gpu_cache_usage")
"""What does not end when the queue has been taken in: requests that run, and the cache that they fill."""
OF_PODS = re.compile(r"\b(?:vllm[:_]|sglang[:_]|tgi_|nv_inference_|nv_trt_llm_)\w+")
"""Series that an engine's pods export themselves."""
_MODELS = re.compile(r"\b(?:vllm[:_]|sglang[:_]|tgi_|nv_inference_|nv_trt_llm_|headrace_|DCGM_FI_)\w+")


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query of a trigger."""

    scaler: Object
    trigger: At
    at: At

    @property
    def text(self) -> str:
        return self.at.text

    @property
    def metadata(self) -> At:
        return self.trigger.get("metadata")

    @property
    def names(self) -> list[str]:
        """The metric names in it: words that are no labels, functions or keywords."""
        bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|'[^']*'|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", self.text)
        return [word for word in re.findall(r"[A-Za-z_:][\w:]*(?!\w|\s*\()", bare) if "_" in word or ":" in word]


def queries(context: Context) -> list[Query]:
    """Every prometheus trigger's query of the run."""
    return context.once("queries", lambda: list(_queries(context)))


def queries_of(context: Context, scaler: Object) -> list[Query]:
    """Those of one scaler."""

    def index() -> dict[int, list[Query]]:
        found: dict[int, list[Query]] = {}
        for query in queries(context):
            found.setdefault(id(query.scaler), []).append(query)
        return found

    return context.once("queries by scaler", index).get(id(scaler), [])


def _queries(context: Context) -> Iterator[Query]:
    for one in context.of("ScaledObject", "ScaledJob"):
        for trigger in triggers(one):
            if trigger.get("type").text == "prometheus" and trigger.get("metadata", "query").text:
                yield Query(one, trigger, trigger.get("metadata", "query"))


def of_models(context: Context, query: Query) -> bool:
    """Whether a query is about a model server: by its metrics, else by what it scales."""
    if _MODELS.search(query.text):
        return True
    target = context.target(query.scaler)
    return target is not None and serves(context, target)


def triggers(one: Object) -> list[At]:
    return list(one.spec.get("triggers").each())


def scales_models(context: Context, one: Object) -> bool:
    """Whether a ScaledObject or HPA is about model servers."""
    if one.kind == "ScaledObject":
        found = any(of_models(context, query) for query in queries_of(context, one))
        return found or _target_serves(context, one)
    return bool(_MODELS.search(str(one.spec.get("metrics").value))) or _target_serves(context, one)


def _target_serves(context: Context, one: Object) -> bool:
    target = context.target(one)
    return target is not None and serves(context, target)
