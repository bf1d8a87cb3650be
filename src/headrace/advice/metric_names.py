"""What engines, our gateway and kube-state-metrics call things in Prometheus, old names beside new ones.

Those of vLLM, llama.cpp and Triton are of recorded pages (tests/contract/recorded), SGLang's and TGI's were read in source.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """What an engine calls things; of several names the first that is there. `label` names the model, "" where none does."""

    engine: str
    label: str
    waiting: tuple[str, ...]
    running: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    usage: tuple[str, ...] = ()
    """Part of the cache in use."""
    put_out: tuple[str, ...] = ()
    """Requests that lost their place in the cache."""
    asked: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    """Prompt tokens that were looked for in a cache, and found. Where `beside`, the first does not count the second."""
    beside: bool = False
    generated: tuple[str, ...] = ()
    """Output tokens."""
    prompts: str = ""
    answers: str = ""
    """Histograms of lengths in tokens."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every name of a series that is looked for."""
        lengths = tuple(f"{name}_bucket" for name in (self.prompts, self.answers) if name)
        plain = (self.waiting, self.running, self.finished, self.usage, self.put_out, self.asked, self.cached, self.generated)
        return tuple(name for names in plain for name in names) + lengths


ENGINES = (
    Names(
        "vllm",
        "model_name",
        ("vllm:num_requests_waiting",),
        ("vllm:num_requests_running",),
        ("vllm:request_success_total",),
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # fractions, despite the name; the second until 0.9
        ("vllm:num_preemptions_total",),
        ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        generated=("vllm:generation_tokens_total",),
        prompts="vllm:request_prompt_tokens",
        answers="vllm:request_generation_tokens",
    ),
    Names(
        "sglang",
        "model_name",
        ("sglang:num_queue_reqs",),
        ("sglang:num_running_reqs",),
        ("sglang:num_requests_total",),
        ("sglang:token_usage",),
        asked=("sglang:prompt_tokens_total",),
        cached=("sglang:cached_tokens_total",),
        generated=("sglang:generation_tokens_total",),
    ),
    Names(
        "tgi",
        "",
        ("tgi_queue_size",),
        ("tgi_batch_current_size",),
        ("tgi_request_success",),
        generated=("tgi_request_generated_tokens_sum",),
        prompts="tgi_request_input_length",
        answers="tgi_request_generated_tokens",
    ),
    Names(
        "llamacpp",
        "",
        ("llamacpp:requests_deferred",),
        ("llamacpp:requests_processing",),
        asked=("llamacpp:prompt_tokens_total",),
        cached=("llamacpp:prompt_tokens_cached_total",),
        beside=True,
        generated=("llamacpp:tokens_predicted_total",),
    ),
    Names("triton", "model", ("nv_inference_pending_request_count",), finished=("nv_inference_request_success",)),
)
GATEWAY = Names(
    "headrace",
    "model",
    ("headrace_queue_depth",),
    ("headrace_in_flight_requests",),
    ("headrace_requests_total",),
    asked=("headrace_prompt_blocks_total",),
    cached=("headrace_prompt_blocks_matched_total",),
    generated=("headrace_generated_tokens_total",),
)
SLOTS, STATE, WANTED = "headrace_slots", "headrace_replica_state", "headrace_replicas_wanted"
READY = ("kube_deployment_status_replicas_ready", "kube_statefulset_status_replicas_ready")
MOST = ("kube_horizontalpodautoscaler_spec_max_replicas",)
CLUSTER = (*READY, *MOST)
