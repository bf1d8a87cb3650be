"""Layers that keep a state of fixed size per request: Mamba, gated delta nets, Kimi's delta attention, short convolutions."""

from dataclasses import dataclass

from headrace.facts.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """A layer with `numbers` of state per request (of 16 bits; one of 32 bits counts twice) and so many parameters.

    `projections` are the matrices as (name, rows, columns); `others` the parameters that are never quantized.
    """

    numbers: int
    projections: tuple[tuple[str, int, int], ...] = ()
    others: int = 0


def state(text: Settings, family: str) -> State:
    """The state layer that a config describes; of 0 numbers when none of the known kinds is described."""
    hidden = text.need("hidden_size", "d_model")
    if "linear_num_value_heads" in text:
        return _delta_net(text, hidden)
    if "linear_attn_config" in text:
        return _kimi(text.part("linear_attn_config"), hidden)
    if "mamba_num_heads" in text or "mamba_n_heads" in text or family == "mamba2":
        return _mamba2(text, hidden)
    if "mamba_d_state" in text or family in ("mamba", "falcon_mamba"):
        return _mamba(text, hidden)
    if kernel := text.find("conv_L_cache"):
        return State(kernel * hidden, (("in_proj", 3 * hidden, hidden), ("out_proj", hidden, hidden)), kernel * hidden)
    if "attn_type_list" in text:
        return _lightning(text, hidden)
    return State(0)


def _wide(text: Settings) -> int:
    """How many 16-bit numbers one of the state takes: vLLM keeps it in 32 bits where the config says so."""
    return 2 if text.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype") == "float32" else 1


def _delta_net(text: Settings, hidden: int) -> State:
    """Gated delta net (Qwen3-Next, Qwen3.5): shapes of transformers' Qwen3NextGatedDeltaNet."""
    value_heads = text.need("linear_num_value_heads")
    key_size, value_size = text.need("linear_key_head_dim"), text.need("linear_value_head_dim")
    key, value = text.need("linear_num_key_heads") * key_size, value_heads * value_size
    kernel = text.need("linear_conv_kernel_dim")
    numbers = (kernel - 1) * (2 * key + value) + value_heads * key_size * value_size * _wide(text)
    projections = (
        *(("in_proj_qkv", 2 * key + value, hidden), ("in_proj_z", value, hidden), ("out_proj", hidden, value)),
        ("in_proj_ba", 2 * value_heads, hidden),
    )
    return State(numbers, projections, (2 * key + value) * kernel + 2 * value_heads + value_size)


def _kimi(text: Settings, hidden: int) -> State:
    """Kimi delta attention (Kimi Linear, K3): shapes of flash-linear-attention's KimiDeltaAttention."""
    heads, size, kernel = text.need("num_heads"), text.need("head_dim"), text.need("short_conv_kernel_size")
    width = heads * size
    gate = (("g_proj", width, hidden),) if text.flag("use_full_rank_gate") else (("g_a", size, hidden), ("g_b", width, size))
    projections = (
        *(("q_proj", width, hidden), ("k_proj", width, hidden), ("v_proj", width, hidden), ("o_proj", hidden, width)),
        *(("f_a", size, hidden), ("f_b", width, size), ("b_proj", heads, hidden), *gate),
    )
    # The state of a delta rule is kept in 32 bits.
    return State((kernel - 1) * 3 * width + 2 * heads * size * size, projections, 3 * width * kernel + width + heads + size)


def _mamba2(text: Settings, hidden: int) -> State:
    """Mamba 2 (Nemotron-H, Bamba, Granite 4, Falcon-H1): shapes of transformers' Mamba2Mixer."""
    heads = text.need("mamba_num_heads", "mamba_n_heads", "num_heads")
    size = text.need("mamba_head_dim", "mamba_d_head", "head_dim")
    groups = text.find("n_groups", "mamba_n_groups", "mamba_ngroups") or 1
    kept, kernel = text.need("ssm_state_size", "mamba_d_state", "state_size"), text.need("conv_kernel", "mamba_d_conv")
    inner = heads * size
    convolved = inner + 2 * groups * kept
    numbers = (kernel - 1) * convolved + heads * size * kept * _wide(text)
    projections = (("in_proj", inner + convolved + heads, hidden), ("out_proj", hidden, inner))
    return State(numbers, projections, convolved * (kernel + 1) + 3 * heads + inner)


def _mamba(text: Settings, hidden: int) -> State:
    """Mamba 1 (Mamba, Jamba): shapes of transformers' MambaMixer."""
    inner = text.find("d_inner") or (text.find("mamba_expand", "expand") or 2) * hidden
    kept, kernel = text.find("mamba_d_state", "state_size") or 16, text.find("mamba_d_conv", "conv_kernel") or 4
    rank = text.find("mamba_dt_rank") if isinstance(text.raw("mamba_dt_rank"), int) else None
    rank = rank or -(-hidden // 16)
    projections = (
        *(("in_proj", 2 * inner, hidden), ("out_proj", hidden, inner)),
        *(("x_proj", rank + 2 * kept, inner), ("dt_proj", inner, rank)),
    )
    return State((kernel - 1) * inner + inner * kept * _wide(text), projections, inner * (kernel + 1 + kept + 2))


def _lightning(text: Settings, hidden: int) -> State:
    """Lightning attention (MiniMax-Text-01): one matrix of head_dim x head_dim per head, in 32 bits."""
    heads, size = text.need("num_attention_heads"), text.need("head_dim")
    width = heads * size
    projections = (("qkv_proj", 3 * width, hidden), ("output_gate", width, hidden), ("out_proj", hidden, width))
    return State(2 * heads * size * size, projections, width)
