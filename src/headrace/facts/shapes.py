"""Layers → matrices: how many parameters a model has and which of them a quantization stores in fewer bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.facts.base import Experts
from headrace.facts.layers import Dense, Layer, Moe
from headrace.facts.mixers import Attention, Latent, Mixer
from headrace.facts.settings import Settings
from headrace.facts.states import State

# Families that use the embedding as the output matrix when the config does not say (defaults of transformers' classes).
_TIED = ("gemma", "cohere", "gpt2", "bloom", "falcon", "opt", "mpt", "gpt_bigcode", "starcoder2", "mamba", "falcon_mamba")


@dataclass(frozen=True, slots=True)
class Matrix:
    """`count` matrices of `rows` x `columns`, named as transformers names the module: `model.layers.3.self_attn.q_proj`.

    `linear` ones may be quantized; `routed` ones are experts.
    """

    name: str
    rows: int
    columns: int
    count: int = 1
    linear: bool = True
    routed: bool = False

    @property
    def numbers(self) -> int:
        return self.rows * self.columns * self.count


def matrices(layers: tuple[Layer, ...], text: Settings, whole: Settings, family: str) -> tuple[Matrix, ...]:
    """Every parameter of the language part. Biases, at most 0.1 % of any model, are left out, as are draft layers (MTP)."""
    hidden = text.need("hidden_size", "n_embd", "d_model", "dim")
    vocabulary = text.need("vocab_size", "padded_vocab_size")
    embedding = Matrix("model.embed_tokens", vocabulary, hidden, linear=False)
    head = () if _tied(text, whole, family) else (Matrix("lm_head", vocabulary, hidden),)
    inside = (matrix for index, layer in enumerate(layers) for matrix in _layer(f"model.layers.{index}", layer, hidden))
    per_layer = tuple(_per_layer_inputs(text, len(layers), hidden))
    return (embedding, *head, *per_layer, *inside, Matrix("model.norm", hidden, 1, linear=False))


def experts(found: tuple[Matrix, ...], layers: tuple[Layer, ...]) -> Experts | None:
    """The routed experts of a model that has them."""
    moe = next((layer.mlp for layer in layers if isinstance(layer.mlp, Moe)), None)
    if moe is None:
        return None
    return Experts(moe.experts, moe.per_token, sum(matrix.numbers for matrix in found if matrix.routed))


def _tied(text: Settings, whole: Settings, family: str) -> bool:
    for settings in (text, whole):
        if (stated := settings.flag("tie_word_embeddings")) is not None:
            return stated
    return family.startswith(_TIED)


def _layer(name: str, layer: Layer, hidden: int) -> Iterator[Matrix]:
    for mixer in layer.mixers:
        yield from _mixer(name, mixer, hidden)
    if layer.mlp is not None:
        yield from _mlp(f"{name}.mlp", layer.mlp, hidden)
    norms = bool(layer.mixers) + (layer.mlp is not None)
    yield Matrix(f"{name}.norm", hidden, max(norms, 1), linear=False)


def _mixer(name: str, mixer: Mixer, hidden: int) -> Iterator[Matrix]:
    match mixer:
        case Attention():
            yield from _attention(f"{name}.self_attn", mixer, hidden)
        case Latent():
            yield from _latent(f"{name}.self_attn", mixer, hidden)
        case State():
            for matrix, rows, columns in mixer.projections:
                yield Matrix(f"{name}.linear_attn.{matrix}", rows, columns)
            yield Matrix(f"{name}.linear_attn.conv", mixer.others, 1, linear=False)


def _attention(name: str, part: Attention, hidden: int) -> Iterator[Matrix]:
    query, output = part.heads * part.key * (2 if part.gate else 1), part.heads * part.value
    if part.query_rank:
        yield Matrix(f"{name}.q_a_proj", part.query_rank, hidden)
    yield Matrix(f"{name}.q_proj", query, part.query_rank or hidden)
    if part.cached:
        yield Matrix(f"{name}.k_proj", part.kv_heads * part.key, hidden)
        if part.values:
            yield Matrix(f"{name}.v_proj", part.kv_heads * part.value, hidden)
    if part.output_rank:
        yield Matrix(f"{name}.o_a_proj", part.output_rank, output)
        output = part.output_rank * part.output_groups
    yield Matrix(f"{name}.o_proj", hidden, output)


def _latent(name: str, part: Latent, hidden: int) -> Iterator[Matrix]:
    query = part.heads * (part.nope + part.rope)
    if part.query_rank:
        yield Matrix(f"{name}.q_a_proj", part.query_rank, hidden)
        yield Matrix(f"{name}.q_b_proj", query, part.query_rank)
    else:
        yield Matrix(f"{name}.q_proj", query, hidden)
    yield Matrix(f"{name}.kv_a_proj_with_mqa", part.kv_rank + part.rope, hidden)
    yield Matrix(f"{name}.kv_b_proj", part.heads * (part.nope + part.value), part.kv_rank)
    yield Matrix(f"{name}.o_proj", hidden, part.heads * part.value)
    if part.index_heads:
        yield Matrix(f"{name}.indexer.wq_b", part.index_heads * part.index_size, part.query_rank or hidden)
        yield Matrix(f"{name}.indexer.wk", part.index_size, hidden)
        yield Matrix(f"{name}.indexer.weights_proj", part.index_heads, hidden, linear=False)


def _mlp(name: str, part: Dense | Moe, hidden: int) -> Iterator[Matrix]:
    if isinstance(part, Dense):
        yield from _feed_forward(name, part.width, hidden, part.gated)
        return
    size = part.latent or hidden
    yield Matrix(f"{name}.gate", part.experts, hidden, linear=False)
    if part.latent:
        yield Matrix(f"{name}.fc1_latent_proj", part.latent, hidden)
        yield Matrix(f"{name}.fc2_latent_proj", hidden, part.latent)
    for matrix, rows, columns in _projections(part.width, size, part.gated):
        yield Matrix(
            f"{name.removesuffix('.mlp') if part.apart else name}.experts.{matrix}", rows, columns, part.experts, routed=True
        )
    if part.shared:
        yield from _feed_forward(name if part.apart else f"{name}.shared_experts", part.shared, hidden, part.gated)


def _feed_forward(name: str, width: int, hidden: int, gated: bool) -> Iterator[Matrix]:
    for matrix, rows, columns in _projections(width, hidden, gated):
        yield Matrix(f"{name}.{matrix}", rows, columns)


def _projections(width: int, hidden: int, gated: bool) -> tuple[tuple[str, int, int], ...]:
    up_and_down = (("up_proj", width, hidden), ("down_proj", hidden, width))
    return (("gate_proj", width, hidden), *up_and_down) if gated else up_and_down


def _per_layer_inputs(text: Settings, layers: int, hidden: int) -> Iterator[Matrix]:
    """Gemma 3n and the small Gemma 4: every layer has an embedding of its own."""
    size = text.count("hidden_size_per_layer_input")
    if size:
        vocabulary = text.need("vocab_size_per_layer_input", "vocab_size")
        yield Matrix("model.embed_tokens_per_layer", vocabulary, layers * size, linear=False)
        yield Matrix("model.per_layer_model_projection", layers * size, hidden)
        yield Matrix("model.per_layer_input_gate", 2 * size, hidden, layers)
