"""config.json, with the tensors where they are known → ModelFacts."""

from collections.abc import Iterable, Mapping
from typing import Any

from headrace.errors import ModelError
from headrace.facts import counted, shapes
from headrace.facts.base import ENCODERS, CacheGroup, Experts, ModelFacts, active, growing_bytes
from headrace.facts.layers import Layer, Layout, Moe, cache_groups, layout
from headrace.facts.mixers import Attention, Latent, head_dim, heads, kv_heads
from headrace.facts.quantization import Quantization, quantization, settings_of
from headrace.facts.settings import Settings
from headrace.weights.headers import Tensor

_TOWERS = ("vision_config", "audio_config", "speech_config", "vision_tower_config", "visual")
_PARTS = ("text_config", "language_config", "llm_config", "thinker_config")
"""Where a model that also sees or hears keeps its language part."""

_FAMILIES = (
    *(
        "llama",
        "mistral",
        "mixtral",
        "ministral",
        "qwen",
        "gemma",
        "phi",
        "deepseek",
        "kimi",
        "glm",
        "gpt_oss",
        "gpt2",
        "gpt_neox",
    ),
    *("gpt_bigcode", "gptj", "falcon", "mamba", "jamba", "bamba", "nemotron", "minimax", "mimo", "step", "granite", "cohere"),
    *("olmo", "starcoder2", "internlm", "exaone", "yi", "baichuan", "stablelm", "smollm", "opt", "bloom", "mpt", "dbrx", "lfm2"),
    *("ernie4", "hunyuan", "seed_oss", "chatglm", "arcee", "dots", "bailing", "longcat", "aya", "zamba", *ENCODERS),
)
"""How names of families start whose shapes are known here."""

_COMPLETE = 0.9
"""Tensors with a smaller part of what the shapes say are taken for incomplete; shapes are right within 2 % where checked."""


def from_config(config: Mapping[str, Any], tensors: Iterable[Tensor], *, chat_template: bool = False) -> ModelFacts:
    """The facts of safetensors weights, by their config.json and tensors. Raises ModelError that names what is missing.

    Without tensors, parameters and bytes are computed from the shapes, without towers and draft layers, and `doubts` says so.
    Names and defaults are those of transformers' configuration classes.
    """
    tensors = tuple(tensors)
    whole, text = Settings(config), _language(config)
    architecture = whole.text("model_type") or text.text("model_type")
    if architecture is None:
        raise ModelError('config.json does not say its architecture: "model_type" is missing.')
    family = text.text("model_type") or architecture
    encoder = architecture in ENCODERS
    described = layout(text, family)
    stored = quantization(config)
    counts = _Counts(config, text, family, described, stored, tensors)
    groups = () if encoder else cache_groups(described.layers)
    head_count, kv_count, size = _heads(text, described.layers)
    return ModelFacts(
        architecture=architecture,
        format="safetensors",
        parameters=counts.parameters,
        weight_bytes=counts.bytes,
        layers=len(described.layers),
        hidden=text.need("hidden_size", "n_embd", "d_model", "dim"),
        heads=head_count,
        kv_heads=kv_count,
        head_dim=size,
        cache_bytes_per_token=growing_bytes(groups),
        context=text.find("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
        quantization=counts.quantization,
        vocabulary=text.find("vocab_size", "padded_vocab_size"),
        chat_template=chat_template,
        encoder=encoder,
        cache=groups,
        intermediate=text.find("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "hidden_dim"),
        experts=counts.experts,
        parameters_active=active(counts.parameters, counts.experts),
        doubts=(*described.doubts, *stored.doubts, *counts.doubts, *_cache_doubts(groups, encoder)),
    )


def _language(config: Mapping[str, Any]) -> Settings:
    """The language part of a model that also sees or hears; the whole of one that does not."""
    for name in _PARTS:
        part = config.get(name)
        if isinstance(part, Mapping):
            return _language(part) if name == "thinker_config" else Settings(part)
    return Settings(config)


def _heads(text: Settings, layers: tuple[Layer, ...]) -> tuple[int, int, int]:
    """(heads, KV heads, size of a head) of the attention layers; zeros where there are none."""
    mixers = [mixer for layer in layers for mixer in layer.mixers if isinstance(mixer, Attention | Latent)]
    if not mixers:
        return 0, 0, 0
    count = heads(text)
    if latent := next((mixer for mixer in mixers if isinstance(mixer, Latent)), None):
        # The head of an MLA model is what its query has; the cache is not counted by heads.
        return count, kv_heads(text, count), latent.nope + latent.rope
    most = max((mixer.kv_heads for mixer in mixers if isinstance(mixer, Attention)), default=count)
    return count, most, head_dim(text, count)


def _cache_doubts(groups: tuple[CacheGroup, ...], encoder: bool) -> tuple[str, ...]:
    if encoder or groups:
        return ()
    return ("no layer with a cache was found in its description",)


class _Counts:
    """Parameters and bytes: of the tensors where there are any, else of the shapes."""

    def __init__(
        self,
        config: Mapping[str, Any],
        text: Settings,
        family: str,
        described: Layout,
        stored: Quantization,
        tensors: tuple[Tensor, ...],
    ) -> None:
        self._config, self._text, self._family = config, text, family
        self._layers, self._stored = described.layers, stored
        self.experts: Experts | None = None
        self.doubts: tuple[str, ...] = ()
        if tensors:
            self._count(tensors)
        else:
            self._compute()
        if self.parameters <= 0:
            raise ModelError("The model has no parameters.")

    def _count(self, tensors: tuple[Tensor, ...]) -> None:
        self.parameters, routed = counted.parameters(self._config, tensors)
        self.bytes = sum(tensor.bytes for tensor in tensors)
        self.quantization = self._stored.name or counted.told_by_names(tensors) or counted.main_type(tensors)
        self.experts = self._stated_experts(routed)
        self.doubts += self._missing()

    def _missing(self) -> tuple[str, ...]:
        """A doubt when the tensors hold clearly less than the shapes say, as when a file is missing."""
        try:
            described = self._shapes()
        except ModelError:
            return ()
        expected = sum(matrix.numbers for matrix in described)
        if not self._family.startswith(_FAMILIES) or self.parameters >= _COMPLETE * expected:
            return ()
        return (f"its tensors hold {self.parameters} parameters where config.json describes {expected}: files may be missing",)

    def _shapes(self) -> tuple[shapes.Matrix, ...]:
        return shapes.matrices(self._layers, self._text, Settings(self._config), self._family)

    def _stated_experts(self, routed: int) -> Experts | None:
        moe = next((layer.mlp for layer in self._layers if isinstance(layer.mlp, Moe)), None)
        if moe is None:
            return None
        if not routed:
            self.doubts = ("which tensors are experts is not known by their names, so all parameters count as active",)
        return Experts(moe.experts, moe.per_token, routed) if routed else None

    def _compute(self) -> None:
        matrices = self._shapes()
        self.parameters = sum(matrix.numbers for matrix in matrices)
        self.bytes = sum(self._stored.bytes(matrix) for matrix in matrices)
        self.quantization = self._stored.name or self._stored.dtype.name
        self.experts = shapes.experts(matrices, self._layers)
        self.doubts = tuple(self._computed())

    def _computed(self) -> Iterable[str]:
        towers = [name.removesuffix("_config") for name in _TOWERS if isinstance(self._config.get(name), Mapping)]
        without = f", without its {' and '.join(towers)} part" if towers else ""
        yield f"parameters and bytes are computed from the shapes in config.json{without}: no tensors were read"
        if not settings_of(self._config):
            yield "a quantization that config.json does not mention would not be seen without tensors"
        if not self._family.startswith(_FAMILIES):
            yield f'the family "{self._family[:40]}" is not known; its layers are taken to be shaped like those of Llama'
        whole = Settings(self._config)
        if not settings_of(self._config) and not (self._text.text("dtype", "torch_dtype") or whole.text("dtype", "torch_dtype")):
            yield "the number format is not stated and taken to be bfloat16"
