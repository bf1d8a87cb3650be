"""What mixes tokens in a layer: attention, latent attention (MLA), or a state; with the sizes that config.json gives."""

from dataclasses import dataclass
from typing import Literal

from headrace.errors import ModelError
from headrace.facts.base import head_size
from headrace.facts.kinds import Kind
from headrace.facts.settings import Settings
from headrace.facts.states import State, state


@dataclass(frozen=True, slots=True)
class Attention:
    """Heads with keys and values of `key` and `value` numbers; a layer that reuses another's cache is not `cached`.

    `gate`: the query matrix is twice as wide, for a gate on the output. `values` is False where keys are taken for values too.
    `query_rank` and `output_rank` are those of low-rank factors, with `output_groups` of the latter.
    """

    kind: Literal["full", "window", "chunk"]
    heads: int
    kv_heads: int
    key: int
    value: int
    window: int | None = None
    cached: bool = True
    gate: bool = False
    values: bool = True
    query_rank: int | None = None
    output_rank: int | None = None
    output_groups: int = 1


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: one compressed vector of `kv_rank` + `rope` numbers per token for all heads."""

    heads: int
    query_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int
    index_heads: int = 0
    index_size: int = 0


Mixer = Attention | Latent | State


def heads(text: Settings) -> int:
    return text.need("num_attention_heads", "n_head", "num_heads", "n_heads")


def kv_heads(text: Settings, count: int) -> int:
    # Falcon 7B and StarCoder share one head, whatever Falcon's num_kv_heads says; newer Falcons mean what they say.
    if text.flag("multi_query") is True and text.flag("new_decoder_architecture") is not True:
        return 1
    if text.flag("multi_query_attention"):
        return text.need("multi_query_group_num")
    return text.find("num_key_value_heads", "num_kv_heads") or text.part("attn_config").find("kv_n_heads") or count


def head_dim(text: Settings, count: int) -> int:
    stated = text.find("head_dim", "attention_head_dim", "kv_channels", "attn_head_dim")
    return stated or head_size(text.need("hidden_size", "n_embd", "d_model", "dim"), count)


def mixer(text: Settings, family: str, index: int, kind: Kind) -> tuple[Mixer, ...]:
    """What mixes tokens in layer `index`, which is of `kind`. Raises ModelError."""
    match kind:
        case "none":
            return ()
        case "state":
            return (state(text, family),)
        case "both":
            return (attention(text, family, index, "full"), state(text, family))
        case "full" | "window" | "chunk":
            return (attention(text, family, index, kind),)
    raise AssertionError(f"a layer of kind {kind} mixes nothing")


def attention(text: Settings, family: str, index: int, kind: Literal["full", "window", "chunk"]) -> Attention | Latent:
    if "kv_lora_rank" in text:
        return _latent(text, index)
    count = heads(text)
    size = head_dim(text, count)
    window = _window(text, index, kind)
    if text.parts("block_configs"):
        return Attention(kind, count, _searched_kv_heads(text, index, count), size, size, window)
    if family.startswith("gemma4"):
        return _gemma4(text, index, kind, count, size, window)
    if kind == "window" and "swa_num_key_value_heads" in text:
        size, count = text.find("swa_head_dim") or size, text.find("swa_num_attention_heads") or count
        value = text.find("swa_v_head_dim", "v_head_dim") or size
        return Attention(kind, count, text.need("swa_num_key_value_heads"), size, value, window)
    return Attention(
        kind,
        count,
        kv_heads(text, count),
        size,
        text.find("v_head_dim") or size,
        window,
        cached=not _reuses(text, index),
        gate=bool(text.flag("attn_output_gate")) or family == "qwen3_next",
        values="compress_ratios" not in text,
        query_rank=text.find("q_lora_rank"),
        output_rank=text.find("o_lora_rank"),
        output_groups=text.find("o_groups") or 1,
    )


def _window(text: Settings, index: int, kind: str) -> int | None:
    if kind == "full":
        return None
    if kind == "chunk":
        return text.need("attention_chunk_size")
    if blocks := text.parts("block_configs"):
        return blocks[index].part("attention").need("window_length")
    return text.need("sliding_window", "sliding_window_size", "attention_window_size")


def _searched_kv_heads(text: Settings, index: int, count: int) -> int:
    group = (text.parts("block_configs") or ())[index].part("attention").need("n_heads_in_group")
    if count % group:
        raise ModelError(f'config.json: layer {index} has groups of {group} heads ("n_heads_in_group"), of {count} in all.')
    return count // group


def _gemma4(
    text: Settings, index: int, kind: Literal["full", "window", "chunk"], count: int, size: int, window: int | None
) -> Attention:
    """Layers that see everything have heads of their own size and number; keys may serve as values, yet both are kept."""
    kv = kv_heads(text, count)
    cached = not _reuses(text, index)
    if kind != "full":
        return Attention(kind, count, kv, size, size, window, cached)
    size = text.find("global_head_dim") or size
    shared = bool(text.flag("attention_k_eq_v"))
    kv = (text.find("num_global_key_value_heads") or kv) if shared else kv
    return Attention(kind, count, kv, size, size, window, cached, values=not shared)


def _reuses(text: Settings, index: int) -> bool:
    """Whether the layer reads an earlier one's cache (Gemma 3n and the small Gemma 4)."""
    shared = text.count("num_kv_shared_layers")
    return shared > 0 and index >= text.need("num_hidden_layers") - shared


def _latent(text: Settings, index: int) -> Latent:
    # GLM 5.2: most layers use the index of one before them.
    types = text.words("indexer_types") or ()
    own = index >= len(types) or types[index] != "shared"
    return Latent(
        heads=heads(text),
        query_rank=text.find("q_lora_rank"),
        kv_rank=text.need("kv_lora_rank"),
        nope=text.need("qk_nope_head_dim"),
        rope=text.need("qk_rope_head_dim"),
        value=text.need("v_head_dim"),
        index_heads=text.count("index_n_heads") if own else 0,
        index_size=text.count("index_head_dim"),
    )
