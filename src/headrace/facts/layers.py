"""config.json → its layers as values: what mixes tokens in each, and what follows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import ModelError
from headrace.facts.base import CacheGroup
from headrace.facts.kinds import Kind, kinds
from headrace.facts.mixers import Attention, Latent, Mixer, mixer
from headrace.facts.settings import Settings
from headrace.facts.states import State

# Families whose feed-forward part has two matrices (up, down); all others have a third, the gate.
_UNGATED = (
    *("gpt2", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "starcoder2", "nemotron", "nemotron_h"),
    *("mpt", "bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "camembert"),
)


@dataclass(frozen=True, slots=True)
class Dense:
    """A feed-forward part that every token takes."""

    width: int
    gated: bool


@dataclass(frozen=True, slots=True)
class Moe:
    """Routed experts, and beside them what every token takes: `shared` is its width in all.

    `latent` is the size that tokens are compressed to on their way to the experts, None where they are not.
    """

    experts: int
    per_token: int
    width: int
    gated: bool
    shared: int
    latent: int | None = None
    apart: bool = False
    """The experts are a module beside the feed-forward part (Gemma 4), not within it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `mixers` (none in a layer of Nemotron-H that only feeds forward) and the part after them."""

    mixers: tuple[Mixer, ...]
    mlp: Dense | Moe | None


@dataclass(frozen=True, slots=True)
class Layout:
    """All layers of a decoder or encoder, and what of their description was not understood."""

    layers: tuple[Layer, ...]
    doubts: tuple[str, ...]


def layout(text: Settings, family: str) -> Layout:
    """The layers that a config describes. Raises ModelError that names the missing or wrong key."""
    kind_of, doubts = kinds(text, family)
    built = tuple(_layer(text, family, index, kind) for index, kind in enumerate(kind_of))
    if any(isinstance(part, State) and not part.numbers for layer in built for part in layer.mixers):
        doubts = (*doubts, "the state that its linear-attention layers keep is of an unknown size and counted as 0")
    return Layout(built, doubts)


def cache_groups(layers: Sequence[Layer]) -> tuple[CacheGroup, ...]:
    """Layers with like caches together, in order of first appearance."""
    counted: dict[CacheGroup, int] = {}
    for part in (part for layer in layers for part in layer.mixers):
        if (group := _group(part)) is not None:
            counted[group] = counted.get(group, 0) + 1
    return tuple(
        CacheGroup(group.kind, layers_, group.kv_heads, group.numbers, group.window) for group, layers_ in counted.items()
    )


def _group(part: Mixer) -> CacheGroup | None:
    match part:
        case Attention(cached=False):
            return None
        case Attention():
            return CacheGroup(part.kind, 1, part.kv_heads, part.key + part.value, part.window)
        case Latent():
            return CacheGroup("latent", 1, 1, part.kv_rank + part.rope)
        case State():
            return CacheGroup("state", 1, 1, part.numbers)


def _layer(text: Settings, family: str, index: int, kind: Kind) -> Layer:
    if text.parts("block_configs"):
        return _searched(text, family, index, kind)
    if kind in ("mlp", "moe"):
        return Layer((), _dense(text, family) if kind == "mlp" else _moe(text, family))
    only_mixer = "hybrid_override_pattern" in text or ("layers_block_type" in text and family == "nemotron_h")
    mlp = None if only_mixer or family in ("mamba", "mamba2", "falcon_mamba") else _mlp(text, family, index)
    return Layer(mixer(text, family, index, kind), mlp)


def _searched(text: Settings, family: str, index: int, kind: Kind) -> Layer:
    """A layer found by architecture search (nemotron-nas): each has its own widths, or nothing."""
    blocks = text.parts("block_configs") or ()
    feed = blocks[index].part("ffn")
    factor = feed.number("ffn_mult")
    # DeciLM's configuration rounds two thirds of it up to a multiple of 256.
    width = -(-int(2 * factor * text.need("hidden_size") / 3) // 256) * 256 if factor else feed.count("intermediate_size")
    return Layer(mixer(text, family, index, kind), Dense(width, gated=True) if width and not feed.flag("no_op") else None)


def _mlp(text: Settings, family: str, index: int) -> Dense | Moe:
    return _moe(text, family) if _has_experts(text, index) else _dense(text, family)


def _dense(text: Settings, family: str) -> Dense:
    width = text.find("dense_intermediate_size", "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner")
    width = width or text.find("hidden_dim", "ffn_dim", "dense_ffn_hidden_size")
    return Dense(width or 4 * text.need("hidden_size", "n_embd", "d_model", "dim"), family not in _UNGATED)


def experts_count(text: Settings) -> int:
    """Routed experts in a layer that has them; 0 for a dense model."""
    if text.flag("enable_moe_block") is False:
        return 0
    named = text.count("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
    return named or text.part("ffn_config").count("moe_num_experts")


def _has_experts(text: Settings, index: int) -> bool:
    """Whether the layer has routed experts, by each way that configs say it."""
    if experts_count(text) < 2:
        return False
    if stated := text.words("mlp_layer_types"):
        return _at(stated, index, "mlp_layer_types") in ("sparse", "moe")
    if listed := text.numbers("moe_layer_freq"):
        return bool(_at(listed, index, "moe_layer_freq"))
    if only := text.numbers("moe_layers"):
        return index in only
    if index in (text.numbers("mlp_only_layers") or ()) or index < text.count("first_k_dense_replace", "num_dense_layers"):
        return False
    step = text.find("decoder_sparse_step", "interleave_moe_layer_step") or 1
    if period := text.find("expert_layer_period"):
        return index % period == text.count("expert_layer_offset")
    return index >= text.count("moe_layer_start_index") and (index + 1) % step == 0


def _at(values: Sequence[int | str], index: int, name: str) -> int | str:
    if index >= len(values):
        raise ModelError(f'config.json: "{name}" has {len(values)} values, too few for layer {index}.')
    return values[index]


def _moe(text: Settings, family: str) -> Moe:
    count = experts_count(text)
    per_token = text.find(
        "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "experts_per_token", "moe_k", "moe_topk"
    )
    per_token = per_token or text.part("ffn_config").find("moe_top_k")
    if per_token is None:
        raise ModelError(f'config.json has {count} experts and does not say "num_experts_per_tok".')
    if per_token > count:
        raise ModelError(f"config.json: a token uses {per_token} experts of only {count}.")
    width = text.find("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    width = width or text.part("ffn_config").find("ffn_hidden_size") or text.need("moe_intermediate_size")
    latent = text.find("moe_latent_size", "routed_expert_hidden_size")
    return Moe(count, per_token, width, family not in _UNGATED, _shared(text, family, width), latent, family.startswith("gemma4"))


def _shared(text: Settings, family: str, width: int) -> int:
    """The width of what every token takes beside the routed experts."""
    if family.startswith("llama4"):
        return width  # always one, and no key says so
    if family.startswith("gemma4"):
        return text.need("intermediate_size")  # a dense part beside the experts
    if stated := text.count("shared_expert_intermediate_size", "share_expert_dim", "shared_intermediate_size"):
        return stated
    shared = text.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    return shared * (text.find("moe_shared_expert_intermediate_size") or width)
