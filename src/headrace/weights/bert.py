"""What a BERT embedding model becomes as GGUF: names, vocabulary, settings; and what cannot become one."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from headrace.errors import WeightsError
from headrace.weights.formats import Choice, FormatMissing, choose, indexed

POOLING_FILE = "1_Pooling/config.json"
"""Where sentence-transformers says how token vectors become one."""

_POOLING = {"pooling_mode_mean_tokens": "MEAN", "pooling_mode_cls_token": "CLS"}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WHOLE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def choose_or_convert(
    names: Iterable[str],
    formats: Sequence[str],
    pick: str | None,
    where: str,
    config: Callable[[str], Mapping[str, Any]],
) -> Choice:
    """As `formats.choose` and `formats.indexed`; where only GGUF will do, also safetensors of a BERT that can become GGUF.

    `config(name)` reads a JSON file of the source. Raises WeightsError and ModelError.
    """
    names = tuple(names)
    try:
        choice = choose(names, formats, pick, where)
    except WeightsError:
        found = _bert(names, pick, where, config) if "gguf" in formats else None
        if found is None:
            raise
        choice = found
    return indexed(choice, names, pick, where, config)


def _bert(names: Sequence[str], pick: str | None, where: str, config: Callable[[str], Mapping[str, Any]]) -> Choice | None:
    """The safetensors files of a BERT, None if they are another model's; FormatMissing if it cannot be converted."""
    try:
        choice = choose(names, ("safetensors",), pick, where)
    except WeightsError:
        return None
    described = [name for name in choice.side if name.rpartition("/")[2] == "config.json"]
    if not described:
        return None
    settings = config(described[0])
    if settings.get("model_type") != "bert":
        return None
    if reason := refuse(settings):
        raise FormatMissing(f"{where} is a BERT that cannot be converted to GGUF: {reason}.", "Name a source with GGUF weights.")
    folder = described[0].removesuffix("config.json")
    pooling = tuple(name for name in names if name == folder + POOLING_FILE and name not in choice.side)
    return Choice(choice.format, choice.weights, choice.side + pooling)


def refuse(config: Mapping[str, Any]) -> str | None:
    """Why the BERT of this config.json cannot become GGUF, or None. Defaults are those of transformers' BertConfig."""
    for key, supported in (("position_embedding_type", "absolute"), ("hidden_act", "gelu")):
        if config.get(key, supported) != supported:
            return f'"{key}" is {config.get(key)!r}, and only {supported!r} can be'
    return None


def pooling(config: Mapping[str, Any] | None) -> str:
    """How token vectors become one (`MEAN` or `CLS`), by the config.json of 1_Pooling. Raises FormatMissing."""
    on = [key for key, value in (config or {}).items() if key.startswith("pooling_mode_") and value is True]
    if len(on) != 1 or on[0] not in _POOLING:
        raise FormatMissing(
            f"How the embedding model pools its token vectors is not said, or not known: {on or POOLING_FILE}.",
            "Name a source with GGUF weights.",
        )
    return _POOLING[on[0]]


def lowercases(tokenizer_config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer folds case, as llama.cpp's WordPiece always does. transformers' default is yes."""
    return tokenizer_config.get("do_lower_case", True) is not False


def tensor_name(name: str) -> str | None:
    """The GGUF name of a tensor of BERT, or None for what is not needed: the pooler, position ids, training heads."""
    module, _, kind = name.removeprefix("bert.").rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if module in _WHOLE:
        return f"{_WHOLE[module]}.{kind}"
    layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", module)
    return f"blk.{layer[1]}.{_LAYER[layer[2]]}.{kind}" if layer and layer[2] in _LAYER else None


def expected_tensors(layers: int) -> set[str]:
    """The GGUF names that a whole model has."""
    vectors = {"token_embd.weight", "token_types.weight", "position_embd.weight"}
    whole = vectors | {f"token_embd_norm.{kind}" for kind in ("weight", "bias")}
    return whole | {f"blk.{n}.{part}.{kind}" for n in range(layers) for part in _LAYER.values() for kind in ("weight", "bias")}


def half(name: str, dimensions: int) -> bool:
    """Whether a tensor is stored as F16: the matrices, except those that llama.cpp adds in F32."""
    return dimensions == 2 and not name.startswith(("token_types", "position_embd"))


def token(word: str) -> tuple[str, str]:
    """(text, kind) in GGUF of a line of vocab.txt: GGUF marks word starts (U+2581), BERT continuations (##)."""
    if word in _SPECIAL:
        return word, "CONTROL"
    if word.startswith("[") and word.endswith("]") and len(word) > 2:
        return word, "UNUSED"
    return (word.removeprefix("##") if word.startswith("##") else "\u2581" + word), "NORMAL"


def special_ids(words: Sequence[str]) -> dict[str, int]:
    """The token ids that the tokenizer needs, by their GGUF names. Raises FormatMissing when one is missing."""
    if missing := [word for word in _SPECIAL if word not in words]:
        raise FormatMissing(f"vocab.txt has no {missing[0]}, which BERT needs.", "Name a source with GGUF weights.")
    pad, unk, cls, sep, mask = (words.index(word) for word in _SPECIAL)
    return {"bos": cls, "eos": sep, "sep": sep, "pad": pad, "unk": unk, "mask": mask}
