"""A GGUF header → ModelFacts."""

from collections.abc import Sequence

from headrace.errors import ModelError
from headrace.facts.base import ENCODERS, MOST_LAYERS, CacheGroup, Experts, ModelFacts, active, growing_bytes, head_size
from headrace.facts.counted import main_type
from headrace.units import show_bytes
from headrace.weights import ggml
from headrace.weights.headers import GgufHeader, Table

# Every so many layers one sees everything, the others a window (llama.cpp, llama-model.cpp: set_swa_pattern).
_INTERVALS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "llama4": 4}
_CHUNKED = {"llama4": 8192}
"""llama.cpp fixes Llama 4's chunk, and no key says it."""

_NO_WINDOW = ("phi3", "llama", "qwen2", "qwen3", "mistral3")
"""Architectures whose window llama.cpp does not use, whatever the header says."""

_INTERVAL_STATE = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
_MOST_STATE = 2**40


def from_gguf(header: GgufHeader, file_bytes: int) -> ModelFacts:
    """The facts of a GGUF model of `file_bytes` bytes in all its parts. Raises ModelError that names what is missing.

    Keys and their defaults are those of the GGUF specification (ggml/docs/gguf.md).
    """
    keys = Keys(header)
    layers, hidden = keys.number("block_count"), keys.number("embedding_length")
    encoder = keys.architecture in ENCODERS or keys.raw("attention.causal") is False
    shape = _heads(keys, layers, hidden)
    groups, doubts = ((), ()) if encoder else _groups(keys, layers, shape)
    parameters = sum(tensor.elements for tensor in header.tensors if not tensor.name.startswith("rope_"))
    if parameters <= 0:
        raise ModelError("The file has no tensors.")
    experts = _experts(keys, header)
    return ModelFacts(
        architecture=keys.architecture,
        format="gguf",
        parameters=parameters,
        weight_bytes=_whole(header, file_bytes),
        layers=layers,
        hidden=hidden,
        heads=shape.heads,
        kv_heads=max(shape.kv_heads),
        head_dim=shape.key,
        cache_bytes_per_token=growing_bytes(groups),
        context=keys.optional("context_length"),
        quantization=_quantization(header),
        vocabulary=keys.optional("vocab_size") or _length(header.metadata.get("tokenizer.ggml.tokens")),
        chat_template="tokenizer.chat_template" in header.metadata,
        encoder=encoder,
        cache=groups,
        intermediate=keys.greatest("feed_forward_length"),
        experts=experts,
        parameters_active=active(parameters, experts),
        doubts=doubts,
        template=str(header.metadata.get("tokenizer.chat_template") or ""),
    )


class Keys:
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

    def greatest(self, key: str) -> int | None:
        """As `most`, and None when it is not there."""
        return None if self.raw(key) is None else max(self._list(key) or [self.optional(key) or 0]) or None

    def each(self, key: str, layers: int, default: int) -> list[int]:
        """The number of every layer."""
        if layers > MOST_LAYERS:
            raise ModelError(f'The GGUF key "{self.architecture}.block_count" is {layers}, which no model has.')
        values = self._list(key)
        if values is None:
            number = self.optional(key)
            return [default if number is None else number] * layers
        if len(values) != layers:
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" has {len(values)} numbers for {layers} layers.')
        return values

    def _list(self, key: str) -> list[int] | None:
        value = self.raw(key)
        if not isinstance(value, tuple):
            return None
        numbers = [int(number) for number in value if isinstance(number, int) and number >= 0]
        if len(numbers) != len(value):
            raise ModelError(f'The GGUF key "{self.architecture}.{key}" has values that are not counts.')
        return numbers


class _Heads:
    """The attention of a model: heads, KV heads of each layer, and the numbers of a key and of a value."""

    def __init__(self, heads: int, kv_heads: list[int], key: int, value: int) -> None:
        self.heads, self.kv_heads, self.key, self.value = heads, kv_heads, key, value


def _heads(keys: Keys, layers: int, hidden: int) -> _Heads:
    if keys.raw("attention.head_count") in (0, None) and keys.optional("ssm.inner_size"):
        return _Heads(0, keys.each("none", layers, 0), 0, 0)
    heads = keys.most("attention.head_count")
    # Without the key there are as many as heads; a list gives each layer's own, 0 for layers that keep no cache.
    kv_heads = keys.each("attention.head_count_kv", layers, heads)
    key = keys.optional("attention.key_length") or head_size(hidden, heads)
    value = keys.optional("attention.value_length") or head_size(hidden, heads)
    return _Heads(heads, kv_heads, key, value)


def _groups(keys: Keys, layers: int, shape: _Heads) -> tuple[tuple[CacheGroup, ...], tuple[str, ...]]:
    """(cache by groups of layers, doubts)."""
    state, state_doubts = _state(keys)
    kv_heads = _without_state_layers(keys, shape.kv_heads) if state else shape.kv_heads
    if rank := keys.optional("attention.kv_lora_rank"):
        found, doubts = _latent(keys, kv_heads, rank, shape)
    else:
        found, doubts = _windows(keys, kv_heads, shape)
    # In Falcon-H1 every layer has both.
    count = layers if keys.architecture == "falcon-h1" else kv_heads.count(0)
    if state and count:
        found = [*found, CacheGroup("state", count, 1, state)]
    return _merged(found), (*doubts, *state_doubts)


def _without_state_layers(keys: Keys, kv_heads: list[int]) -> list[int]:
    """Heads of the layers with attention where no list tells: every fourth one of Qwen3-Next and its successors."""
    interval = keys.optional("full_attention_interval") or _INTERVAL_STATE.get(keys.architecture)
    if not interval or 0 in kv_heads:
        return kv_heads
    return [0 if (index + 1) % interval else count for index, count in enumerate(kv_heads)]


def _state(keys: Keys) -> tuple[int, tuple[str, ...]]:
    """(16-bit numbers of state per request and layer, doubts); llama.cpp keeps states in 32 bits."""
    if keys.optional("wkv.head_size"):
        return 0, ("the state of RWKV layers is not counted",)
    inner = keys.optional("ssm.inner_size")
    if not inner:
        return 0, ()
    kept, kernel, groups = keys.number("ssm.state_size"), keys.number("ssm.conv_kernel"), keys.optional("ssm.group_count") or 0
    numbers = 2 * ((kernel - 1) * (inner + 2 * groups * kept) + kept * inner)
    if numbers > _MOST_STATE:
        raise ModelError(f"The GGUF header is damaged: a state of {numbers} numbers per layer.")
    return numbers, ()


def _latent(keys: Keys, kv_heads: list[int], rank: int, shape: _Heads) -> tuple[list[CacheGroup], tuple[str, ...]]:
    """DeepSeek's latent attention. Files made before llama.cpp knew it have no key for it, and keep the cache uncompressed."""
    layers = len(kv_heads) - kv_heads.count(0)
    if keys.optional("attention.key_length_mla"):
        rope = keys.optional("rope.dimension_count") or 0
        return [CacheGroup("latent", layers, 1, rank + rope)], ()
    doubt = "this file was converted before llama.cpp could compress the cache of its attention (MLA): it is kept in full"
    return [CacheGroup("full", 1, count, shape.key + shape.value) for count in kv_heads if count], (doubt,)


def _windows(keys: Keys, kv_heads: list[int], shape: _Heads) -> tuple[list[CacheGroup], tuple[str, ...]]:
    window, kind = keys.optional("attention.sliding_window"), "window"
    if keys.architecture in _CHUNKED:
        window, kind = _CHUNKED[keys.architecture], "chunk"
    sees_all, doubts = _sees_all(keys, len(kv_heads), window)
    swa_key = keys.optional("attention.key_length_swa") or shape.key
    swa_value = keys.optional("attention.value_length_swa") or shape.value
    groups = [
        CacheGroup("full", 1, count, shape.key + shape.value)
        if everything
        else CacheGroup("chunk" if kind == "chunk" else "window", 1, count, swa_key + swa_value, window)
        for count, everything in zip(kv_heads, sees_all, strict=True)
        if count
    ]
    return groups, doubts


def _sees_all(keys: Keys, layers: int, window: int | None) -> tuple[list[bool], tuple[str, ...]]:
    """(whether each layer sees everything, doubts)."""
    context = keys.optional("context_length")
    if not window or keys.architecture in _NO_WINDOW or (context and window >= context):
        return [True] * layers, ()
    stated = keys.raw("attention.sliding_window_pattern")
    if isinstance(stated, tuple) and len(stated) == layers:
        return [not windowed for windowed in stated], ()
    interval = stated if isinstance(stated, int) and stated > 0 else _INTERVALS.get(keys.architecture)
    if interval:
        return [(index + 1) % interval == 0 for index in range(layers)], ()
    return [True] * layers, (
        f"which layers of {keys.architecture[:40]} have the window of {window} is not known: all are counted full",
    )


def _merged(groups: Sequence[CacheGroup]) -> tuple[CacheGroup, ...]:
    """Like groups together, in order of first appearance."""
    counted: dict[tuple[str, int, int, int | None], CacheGroup] = {}
    for group in groups:
        key = (group.kind, group.kv_heads, group.numbers, group.window)
        before = counted[key].layers if key in counted else 0
        counted[key] = CacheGroup(group.kind, before + group.layers, group.kv_heads, group.numbers, group.window)
    return tuple(counted.values())


def _experts(keys: Keys, header: GgufHeader) -> Experts | None:
    count = keys.optional("expert_count")
    if not count:
        return None
    per_token = keys.number("expert_used_count")
    if per_token > count:
        raise ModelError(f"The GGUF header is damaged: a token uses {per_token} experts of only {count}.")
    return Experts(count, per_token, sum(tensor.elements for tensor in header.tensors if "_exps." in tensor.name))


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
    return main_type(header.tensors)


def _length(value: object) -> int | None:
    return value.length if isinstance(value, Table) else len(value) if isinstance(value, tuple) else None
