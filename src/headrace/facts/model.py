"""config.json or a GGUF header, with the tensor index → ModelFacts: what is true of a model, read and never guessed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import ModelError
from headrace.units import show_bytes
from headrace.weights import ggml
from headrace.weights.headers import GgufHeader, Table, Tensor
from headrace.weights.model import Weights

ENCODERS = (
    *("t5encoder", "gemma-embedding"),
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert"),
    *("roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "nomic_bert", "electra", "camembert"),
)
"""Architectures, by the names of GGUF and of config.json, that embed and cannot generate."""

_CACHE_NUMBER_BYTES = 2
_PACKED = ("gptq", "awq")
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_SCALES = ("_scale", "_scale_inv", ".scales", ".qzeros", ".g_idx", "_zero_point")


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose cache is alike.

    `full` keeps every token, `window` and `chunk` the last `window` tokens, `latent` one compressed vector per token (MLA),
    `state` a fixed amount per request (Mamba, linear attention). `numbers` are the numbers kept per token, layer and KV head,
    key and value together (latent: kv_lora_rank + rope dimension, with one head; state: per request and layer, with one head).
    """

    kind: Literal["full", "window", "chunk", "latent", "state"]
    layers: int
    kv_heads: int
    numbers: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: of `count` in a layer a token uses `per_token`; `parameters` are those of all routed experts."""

    count: int
    per_token: int
    parameters: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of a model. None means the files do not say.

    `cache_bytes_per_token` is the KV cache of one token over all layers whose cache grows with tokens, at 16 bits per number:
    2 (key and value) x layers x kv_heads x head_dim x 2 bytes for plain attention; 0 for encoders, which keep none.
    `cache` says it layer by layer; `parameters_active` are those that one token uses; `doubts` name what was not understood.
    """

    architecture: str
    format: Literal["gguf", "safetensors"]
    parameters: int
    weight_bytes: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    cache_bytes_per_token: int
    context: int | None
    quantization: str
    vocabulary: int | None
    chat_template: bool
    encoder: bool
    """An encoder (BERT and its kin): it embeds and cannot generate."""
    cache: tuple[CacheGroup, ...] = ()
    intermediate: int | None = None
    experts: Experts | None = None
    parameters_active: int | None = None
    doubts: tuple[str, ...] = ()


def of(weights: Weights) -> ModelFacts:
    """The facts of weights that are on this machine. Raises ModelError."""
    if weights.gguf:
        return from_gguf(weights.gguf, weights.bytes)
    if not weights.config:
        raise ModelError(f"{weights.path} has safetensors weights and no config.json that describes them.")
    return from_config(weights.config, weights.tensors, chat_template=weights.chat_template)


def from_gguf(header: GgufHeader, file_bytes: int) -> ModelFacts:
    """The facts of a GGUF model of `file_bytes` bytes in all its parts. Raises ModelError that names what is missing.

    Keys and their defaults are those of the GGUF specification (ggml/docs/gguf.md).
    """
    keys = _Keys(header)
    layers, hidden = keys.number("block_count"), keys.number("embedding_length")
    heads = keys.most("attention.head_count")
    # Without the key there are as many as heads; a list gives each layer's own, 0 for layers that keep no cache.
    kv_heads = keys.each("attention.head_count_kv", layers, heads)
    if keys.optional("attention.key_length_mla") or keys.optional("attention.kv_lora_rank"):
        raise ModelError(f"{keys.architecture} compresses its KV cache (MLA), and its size is not known yet.")
    key_length = keys.optional("attention.key_length") or _head_dim(hidden, heads)
    value_length = keys.optional("attention.value_length") or _head_dim(hidden, heads)
    encoder = keys.architecture in ENCODERS or keys.raw("attention.causal") is False
    return ModelFacts(
        architecture=keys.architecture,
        format="gguf",
        parameters=sum(t.elements for t in header.tensors if not t.name.startswith("rope_")),
        weight_bytes=_whole(header, file_bytes),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=max(kv_heads),
        head_dim=key_length,
        cache_bytes_per_token=0 if encoder else sum(kv_heads) * (key_length + value_length) * _CACHE_NUMBER_BYTES,
        context=keys.optional("context_length"),
        quantization=_quantization(header),
        vocabulary=keys.optional("vocab_size") or _length(header.metadata.get("tokenizer.ggml.tokens")),
        chat_template="tokenizer.chat_template" in header.metadata,
        encoder=encoder,
    )


class _Keys:
    """The metadata of one architecture, whose name every key starts with."""

    def __init__(self, header: GgufHeader) -> None:
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError('The GGUF file does not say its architecture: the key "general.architecture" is missing.')
        self.architecture = architecture
        self._metadata = header.metadata

    def raw(self, key: str) -> object:
        return self._metadata.get(f"{self.architecture}.{key}")

    def optional(self, key: str) -> int | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" is {value!r}, and a number is needed.')
        return value

    def number(self, key: str) -> int:
        value = self.optional(key)
        if not value:
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" is {"0" if value == 0 else "missing"}.')
        return value

    def most(self, key: str) -> int:
        """The number, or the greatest when each layer has its own."""
        values = self._list(key)
        most = max(values, default=0) if values is not None else self.number(key)
        if most <= 0:
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" has no number above 0.')
        return most

    def each(self, key: str, layers: int, default: int) -> list[int]:
        """The number of every layer."""
        values = self._list(key)
        if values is None:
            number = self.optional(key)
            values = [default if number is None else number]
            if layers > 100_000:
                raise ModelError(f'The GGUF key "{self.architecture}.block_count" is {layers}, which no model has.')
            return values * layers
        if len(values) != layers:
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" has {len(values)} numbers for {layers} layers.')
        return values

    def _list(self, key: str) -> list[int] | None:
        value = self.raw(key)
        if not isinstance(value, tuple):
            return None
        numbers = [number for number in value if isinstance(number, int) and number >= 0]
        if len(numbers) != len(value):
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" has values that are not counts.')
        return numbers


def _head_dim(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ModelError(f"The size of a head is not given, and hidden size {hidden} is not a multiple of {heads} heads.")
    return hidden // heads


def _whole(header: GgufHeader, file_bytes: int) -> int:
    """The bytes of all tensors, which must be there."""
    total = sum(tensor.bytes for tensor in header.tensors)
    if header.header_bytes + total > file_bytes:
        need, have = show_bytes(header.header_bytes + total), show_bytes(file_bytes)
        raise ModelError(f"The GGUF file is cut off: its header describes {need}, it has {have}.", "Fetch it again.")
    return total


def _quantization(header: GgufHeader) -> str:
    """What the file says of itself, or else the number format of most of its bytes."""
    stated = header.metadata.get("general.file_type")
    if isinstance(stated, int) and stated in ggml.FILE_TYPES:
        return ggml.FILE_TYPES[stated]
    return _main_type(header.tensors)


def _main_type(tensors: Iterable[Tensor]) -> str:
    total: Counter[str] = Counter()
    for tensor in tensors:
        total[tensor.type] += tensor.bytes
    if not total:
        raise ModelError("The file has no tensors.")
    return max(total, key=lambda name: (total[name], name))


def _length(value: object) -> int | None:
    return value.length if isinstance(value, Table) else len(value) if isinstance(value, tuple) else None


def from_config(config: Mapping[str, Any], tensors: Iterable[Tensor], *, chat_template: bool = False) -> ModelFacts:
    """The facts of safetensors weights, by their config.json and tensors. Raises ModelError that names what is missing.

    Names and defaults are those of transformers' configuration classes.
    """
    tensors = tuple(tensors)
    # A model that also sees keeps its language part under this key.
    text = config["text_config"] if isinstance(config.get("text_config"), Mapping) else config
    architecture = config.get("model_type")
    if not isinstance(architecture, str):
        raise ModelError('config.json does not say its architecture: "model_type" is missing.')
    if "kv_lora_rank" in text:
        raise ModelError(f"{architecture} compresses its KV cache (MLA), and its size is not known yet.")
    layers = _need(text, "num_hidden_layers", "n_layer", "num_layers")
    hidden = _need(text, "hidden_size", "n_embd", "d_model")
    heads = _need(text, "num_attention_heads", "n_head", "num_heads")
    kv_heads = _kv_heads(text, heads)
    head_dim = _find(text, "head_dim") or _head_dim(hidden, heads)
    encoder = architecture in ENCODERS
    return ModelFacts(
        architecture=architecture,
        format="safetensors",
        parameters=_parameters(config, tensors),
        weight_bytes=sum(tensor.bytes for tensor in tensors),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        cache_bytes_per_token=0 if encoder else 2 * layers * kv_heads * head_dim * _CACHE_NUMBER_BYTES,
        context=_find(text, "max_position_embeddings", "n_positions", "max_seq_len"),
        quantization=_method(config) or _main_type(tensors),
        vocabulary=_find(text, "vocab_size"),
        chat_template=chat_template,
        encoder=encoder,
    )


def _find(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ModelError(f'config.json: "{name}" is {value!r}, and a number above 0 is needed.')
        return value
    return None


def _need(config: Mapping[str, Any], *names: str) -> int:
    value = _find(config, *names)
    if value is None:
        raise ModelError(f'config.json does not say "{names[0]}".')
    return value


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    # Falcon 7B and StarCoder share one head, whatever Falcon's num_kv_heads says; newer Falcons mean what they say.
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    return _find(config, "num_key_value_heads", "num_kv_heads") or heads


def _method(config: Mapping[str, Any]) -> str | None:
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return method if isinstance(method, str) else None


def _parameters(config: Mapping[str, Any], tensors: Iterable[Tensor]) -> int:
    """Weights only: no buffers such as position ids, no scales; numbers packed in 32-bit words are counted singly."""
    packed = 0
    if _method(config) in _PACKED:
        packed = 32 // _need(config["quantization_config"], "bits", "w_bit")
    count = 0
    for tensor in tensors:
        if packed and tensor.name.endswith(".qweight"):
            count += tensor.elements * packed
        elif tensor.type in _FLOATS and not tensor.name.endswith(_SCALES):
            count += tensor.elements
    return count
