"""The metrics page of child servers that are ours (`runners/serving.py`)."""

from headrace.engines.base import Reading

_PREFIX = "headrace_engine_"


def read(page: str, model: str) -> Reading:
    """What the page says; it is of one model. Raises ValueError if it is no such page."""
    # Imported here: it takes longer than the rest of `headrace --help`.
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(page)
    values = {sample.name.removeprefix(_PREFIX): sample.value for family in families for sample in family.samples}

    def count(name: str) -> int | None:
        return int(values[name]) if name in values else None

    return Reading(
        running=count("requests_running"),
        waiting=count("requests_waiting"),
        tokens_in_total=count("prompt_tokens_total"),
        tokens_out_total=count("generation_tokens_total"),
        cache_usage=values.get("cache_usage_ratio"),
    )
