"""config.json → the kind of each layer, by every way that configs say it: lists, patterns, intervals, windows."""

from collections.abc import Callable, Mapping
from typing import Literal

from headrace.errors import ModelError
from headrace.facts.base import MOST_LAYERS
from headrace.facts.settings import Settings

Kind = Literal["full", "window", "chunk", "state", "both", "mlp", "moe", "none"]

# What configs call a layer (layer_types, layers_block_type, hybrid_override_pattern) → what it keeps.
_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(
        ("full_attention", "attention", "global_attention", "global", "full", "deepseek_sparse_attention", "*"), "full"
    ),
    **dict.fromkeys(("sliding_attention", "local_attention", "sliding_window", "sliding"), "window"),
    **dict.fromkeys(("chunked_attention",), "chunk"),
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "recurrent", "conv", "kda", "M"), "state"),
    **dict.fromkeys(("hybrid", "parallel_hybrid"), "both"),
    **dict.fromkeys(("mlp", "-"), "mlp"),
    **dict.fromkeys(("moe", "E"), "moe"),
    # The words of this page.
    **{"window": "window", "chunk": "chunk", "state": "state", "both": "both", "none": "none"},
}

_INTERVALS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
"""Defaults of transformers' configuration classes: every so many layers one sees everything, the others a window."""

_ALL_STATE = ("mamba", "mamba2", "falcon_mamba")
_SPARSE_KEYS = ("index_topk", "sparse_attention_config", "compress_ratios")


def kinds(text: Settings, family: str) -> tuple[tuple[Kind, ...], tuple[str, ...]]:
    """(kind of each layer, doubts). Raises ModelError."""
    count = _count(text)
    for way in _WAYS:
        names = way(text, family, count)
        if names is not None:
            break
    else:
        names = ("full",) * count
    if len(names) != count:
        raise ModelError(f"config.json describes {len(names)} layers one by one and says there are {count}.")
    unknown = sorted({name for name in names if name not in _NAMES})
    doubts = tuple(f'layers of the unknown kind "{name[:40]}" are counted as full attention' for name in unknown[:8])
    return tuple(_NAMES.get(name, "full") for name in names), doubts + _sparse_doubts(text)


def _count(text: Settings) -> int:
    count = text.find("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if count is None:
        listed = text.words("layers_block_type") or text.text("hybrid_override_pattern")
        count = len(listed) if listed else text.need("num_hidden_layers")
    if count > MOST_LAYERS:
        raise ModelError(f'config.json: "num_hidden_layers" is {count}, which no model has.')
    return count


def _sparse_doubts(text: Settings) -> tuple[str, ...]:
    if "compress_ratios" in text:
        return (
            "its attention is compressed layer by layer; the cache is counted uncompressed, which is an upper "
            "bound, and the parameters of its compressors are not counted",
        )
    if width := text.find("index_head_dim") if "index_topk" in text else None:
        return (
            f"its attention is sparse: an index of {width} numbers per token and layer comes on top of the counted cache, "
            "and engines differ in how they keep it",
        )
    if any(key in text for key in _SPARSE_KEYS):
        return ("its attention is sparse: an index comes on top of the counted cache, and engines differ in how they keep it",)
    return ()


Way = Callable[[Settings, str, int], tuple[str, ...] | None]


def _searched(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    blocks = text.parts("block_configs")
    if blocks is None:
        return None
    return tuple(_searched_kind(block.part("attention")) for block in blocks)


def _searched_kind(attention: Settings) -> str:
    if attention.flag("no_op") or attention.flag("replace_with_linear"):
        return "none"
    return "window" if "window_length" in attention else "full"


def _listed(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    names = text.words("layer_types") or text.words("layers_block_type")
    return names


def _pattern(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    pattern = text.text("hybrid_override_pattern")
    return tuple(pattern) if pattern else None


def _repeated(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    """RecurrentGemma: a short list that is repeated."""
    names = text.words("block_types") or text.words("_block_types")
    if names is None:
        return None
    local = "window" if text.count("attention_window_size") else "full"
    return tuple({"attention": local}.get(names[index % len(names)], names[index % len(names)]) for index in range(count))


def _linear_config(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    """Kimi: the layers with full attention are listed, counted from 1."""
    full = text.part("linear_attn_config").numbers("full_attn_layers")
    return None if full is None else tuple("full" if index + 1 in full else "state" for index in range(count))


def _coded(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    """Lists of numbers: MiMo marks windows with 1, MiniMax-Text linear attention with 0."""
    if "compress_ratios" in text:  # DeepSeek V4 also has a window, beside what it compresses
        return ("full",) * count
    if windows := text.numbers("hybrid_layer_pattern"):
        return tuple("window" if code else "full" for code in windows)
    if attention := text.numbers("attn_type_list"):
        return tuple("full" if code else "state" for code in attention)
    return None


def _among_state(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    """Jamba, Bamba, Qwen3-Next: attention at some layers, state-space or linear layers elsewhere."""
    if family in _ALL_STATE:
        return ("state",) * count
    if family == "falcon_h1":
        return ("both",) * count
    if listed := text.numbers("attn_layer_indices"):
        return tuple("full" if index in listed else "state" for index in range(count))
    if period := text.find("attn_layer_period"):
        return tuple("full" if index % period == text.count("attn_layer_offset") else "state" for index in range(count))
    if "linear_num_value_heads" in text:
        interval = text.find("full_attention_interval") or 4
        return tuple("state" if (index + 1) % interval else "full" for index in range(count))
    return None


def _chunked(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    """Llama 4: layers with rotary positions see their chunk, those without see everything."""
    if "attention_chunk_size" not in text or not family.startswith("llama4"):
        return None
    if rotary := text.numbers("no_rope_layers"):  # 1 where there are rotary positions, in spite of its name
        return tuple("chunk" if has else "full" for has in rotary)
    interval = text.find("no_rope_layer_interval") or 4
    return tuple("chunk" if (index + 1) % interval else "full" for index in range(count))


def _windowed(text: Settings, family: str, count: int) -> tuple[str, ...] | None:
    window = text.count("sliding_window", "sliding_window_size")
    context = text.find("max_position_embeddings")
    # Qwen writes a window down and does not use it, unless another key says so.
    used = text.flag("use_sliding_window")
    if not window or (not used if family.startswith("qwen") else used is False) or (context and window >= context):
        return None
    if interval := _interval(text, family):
        return tuple("window" if (index + 1) % interval else "full" for index in range(count))
    first = text.count("max_window_layers") if family.startswith("qwen") else 0
    return tuple("full" if index < first else "window" for index in range(count))


def _interval(text: Settings, family: str) -> int | None:
    stated = text.raw("sliding_window_pattern")
    if isinstance(stated, int):
        return text.find("sliding_window_pattern", "_sliding_window_pattern")
    # EXAONE writes LLLG.
    return len(stated) if isinstance(stated, str) and stated else text.find("_sliding_window_pattern") or _INTERVALS.get(family)


_WAYS: tuple[Way, ...] = (*(_searched, _listed, _pattern, _repeated, _linear_config, _coded, _among_state, _chunked, _windowed),)
