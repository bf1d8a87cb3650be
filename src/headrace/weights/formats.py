"""Which files are weights, which one of several to take, and which are refused."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headrace.errors import ModelError, WeightsError

Format = Literal["gguf", "safetensors", "onnx", "skops"]
"""Of weights and of other data, as they are fetched."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Endings of formats that are, or may be, Python pickles. `.h5` is not one, and not weights we read either."""

INDEX = "model.safetensors.index.json"
"""Which tensor is in which file."""

MODULES = "modules.json"
"""What sentence-transformers does behind the model: pooling, dense layers, each in a folder of its own."""

SENTENCE_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers says how long an input may be, in the order in which vLLM looks."""

TEMPLATES = ("chat_template.jinja", "chat_template.json")
"""Chat templates that are no part of the tokenizer's configuration."""

SIDE_FILES = (
    *("config.json", "generation_config.json", INDEX, "sparse_attention_config.json"),
    *("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tekken.json"),
    *(*TEMPLATES, "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *(MODULES, "config_sentence_transformers.json", *SENTENCE_FILES),
)
"""Files that describe the safetensors weights in the same folder: configuration, tokenizer, what is before and behind the model.
Engines run offline on that folder: without one of these vLLM (0.32) does not start, or answers wrongly. None of them is code.
"""

QUANTIZATIONS = (
    *("Q4_K_M", "Q4_K_XL", "Q4_0", "Q4_K_S", "Q4_K", "Q5_K_M", "Q5_K_S", "Q8_0", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"),
    *("F16", "BF16", "Q4_1", "Q5_0", "Q5_1", "F32", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
)
"""Which quantization to take when a source has several and none is picked: best first, as quality for the size."""

DATA: Mapping[str, Format] = {".onnx": "onnx", ".skops": "skops"}
"""What is no language model and yet data only, by the ending of its name, as it is fetched from elsewhere. The case of letters
counts: what is loaded how goes by the ending, and nothing but these may look like one of them.
"""

_QUANTIZATION = re.compile(r"(?<![A-Za-z0-9])(I?Q\d(?:_[A-Za-z0-9]+)*|MXFP4|BF16|FP?16|FP?32)(?![A-Za-z0-9])", re.I)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MODULE = re.compile(r"\d+_\w+/(config\.json|model\.safetensors)", re.ASCII)
"""What a module of sentence-transformers is kept in, as in `1_Pooling/config.json`."""


class FormatMissing(WeightsError):
    """The source has its weights in none of the formats asked for, and they cannot be converted to one: it may have another."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The files to take: `weights` in order (the parts of one model), and `side` files that describe them."""

    format: Format
    weights: tuple[str, ...]
    side: tuple[str, ...] = ()


def is_pickle(name: str) -> bool:
    return name.lower().endswith(PICKLES)


def why_not_pickle(names: Sequence[str]) -> str:
    """The reason for refusing `names`, and what to do instead."""
    return f"{names[0]} may be a pickle, and a pickle can run code when loaded. Use safetensors or GGUF weights instead."


def stem(name: str) -> str:
    """`name` without the ending of weights and without the number of a split: what the model is called."""
    return re.sub(r"(-\d{5}-of-\d{5})?\.(gguf|safetensors|py|onnx|skops)$", "", name)


def parts(name: str) -> tuple[str, ...]:
    """All names of the split GGUF that `name` is a part of, in order; `name` alone when it is not split."""
    match = _SPLIT.search(name)
    if not match:
        return (name,)
    return tuple(f"{name[: match.start()]}-{n:05d}-of-{match[2]}.gguf" for n in range(1, int(match[2]) + 1))


def quantization(name: str) -> str | None:
    """The quantization that the name of a file states, in capitals, or None."""
    found = _QUANTIZATION.findall(name.rpartition("/")[2])
    return found[-1].upper().replace("FP16", "F16").replace("FP32", "F32") if found else None


def choose(names: Iterable[str], formats: Sequence[str], pick: str | None, where: str) -> Choice:
    """The files to take of these, in the first of `formats` that is there; `pick` narrows. Raises WeightsError, FormatMissing."""
    names = sorted(names)
    ways = {"gguf": _gguf, "safetensors": _safetensors, "onnx": _onnx, "skops": _skops}
    for format in formats:
        if choice := ways[format](names, pick, where):
            return choice
    raise _nothing(names, formats, pick, where)


def _gguf(names: Sequence[str], pick: str | None, where: str) -> Choice | None:
    models = [name for name in names if name.lower().endswith(".gguf") and not _beside(name)]
    # One candidate per model: the first part stands for a split one.
    candidates = [name for name in models if parts(name)[0] == name]
    if pick:
        candidates = [name for name in candidates if _picked(name, pick)]
    if not candidates:
        return None
    best = min(candidates, key=lambda name: (_rank(name), len(name), name))
    if missing := [part for part in parts(best) if part not in models]:
        raise WeightsError(f"{where} has not all parts of {best}: {missing[0]} is missing.", "Ask its owner to complete it.")
    return Choice("gguf", parts(best))


def _beside(name: str) -> bool:
    """Not a language model by itself: a vision projector or an importance matrix, which lie beside the model."""
    return name.rpartition("/")[2].lower().startswith(("mmproj", "imatrix"))


def _picked(name: str, pick: str) -> bool:
    base = name.rpartition("/")[2]
    return pick in (name, base, parts(name)[0]) or (quantization(name) or "").lower() == pick.lower()


def _rank(name: str) -> int:
    quant = quantization(name)
    return QUANTIZATIONS.index(quant) if quant in QUANTIZATIONS else len(QUANTIZATIONS)


def _safetensors(names: Sequence[str], pick: str | None, where: str) -> Choice | None:
    tensors = [name for name in names if name.endswith(".safetensors")]
    if pick:
        tensors = [name for name in tensors if pick in (name, name.rpartition("/")[2])]
    if not tensors:
        return None
    folder = min((name.rpartition("/")[0] for name in tensors), key=lambda path: (path.count("/"), len(path), path))
    here = [name for name in tensors if name.rpartition("/")[0] == folder]
    # Some repositories carry the same weights twice: the vendor's file `consolidated.…` and the standard ones.
    standard = [name for name in here if name.rpartition("/")[2].startswith("model")]
    side = {joined(folder, name) for name in SIDE_FILES}
    if joined(folder, MODULES) in names:
        prefix = joined(folder, "")
        side |= {name for name in names if name.startswith(prefix) and _MODULE.fullmatch(name.removeprefix(prefix))}
    return Choice("safetensors", tuple(standard or here), tuple(name for name in names if name in side))


def indexed(
    choice: Choice, names: Iterable[str], pick: str | None, where: str, read: Callable[[str], Mapping[str, Any]]
) -> Choice:
    """`choice` with the safetensors files that the index beside them names: a source may hold the same weights in others too, and
    vLLM loads those of the index. `read(name)` is a JSON file of the source. Raises ModelError when one is missing.
    """
    folder = choice.weights[0].rpartition("/")[0]
    index = joined(folder, INDEX)
    listed = read(index).get("weight_map") if index in choice.side and not pick else None
    if not isinstance(listed, dict) or not listed:
        return choice
    # Nothing but weights, from nowhere but beside the index, whatever it says.
    there = {name for name in names if name.rpartition("/")[0] == folder and name.endswith(".safetensors")}
    wanted = sorted({joined(folder, str(name)) for name in listed.values()})
    if missing := [name for name in wanted if name not in there]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{where} is not complete: its index names {missing[0]}{more}, which it does not have.",
            "Ask its owner to complete it.",
        )
    return replace(choice, weights=tuple(wanted))


def joined(folder: str, name: str) -> str:
    """The name in a source of what is called `name` in one of its folders; the folder "" is the source itself."""
    return f"{folder}/{name}" if folder else name


def _onnx(names: Sequence[str], pick: str | None, where: str) -> Choice | None:
    """The graph, and the files in which exporters keep what is too large for it: `model.onnx_data`, `model.onnx.data`."""
    graph = _one(names, ".onnx", pick, where)
    if graph is None:
        return None
    data = (name for name in names if name.startswith((f"{graph}_data", f"{graph}.data")))
    # Beside it, and nowhere that a name like `model.onnx_data/../../x` leads.
    return Choice("onnx", (graph,), tuple(name for name in data if "/" not in name.removeprefix(graph)))


def _skops(names: Sequence[str], pick: str | None, where: str) -> Choice | None:
    model = _one(names, ".skops", pick, where)
    return Choice("skops", (model,)) if model else None


def _one(names: Sequence[str], ending: str, pick: str | None, where: str) -> str | None:
    """The file that is picked, else the only one, else the one called `model`; None where there is none. Raises WeightsError."""
    there = [name for name in names if name.endswith(ending)]
    if pick is None:
        found = there if len(there) < 2 else [name for name in there if name.rpartition("/")[2] == f"model{ending}"]
    else:
        found = [pick] if pick in there else [name for name in there if name.rpartition("/")[2] == pick]
    if len(found) == 1:
        return found[0]
    if not there or (pick and not pick.endswith(ending)):
        return None
    have = ", ".join(there[:8])
    if pick:
        what = f'several files "{pick}"' if found else f'no file "{pick}"'
        raise WeightsError(f"{where} has {what}. It has {have}.", "Pick one of these.")
    raise WeightsError(f"{where} has several: {have}.", f"Pick one of these behind the source, as in …:{there[0]}.")


def _nothing(names: Sequence[str], formats: Sequence[str], pick: str | None, where: str) -> FormatMissing:
    """Why there is nothing to take: said by what is there."""
    wanted = " or ".join({"gguf": "GGUF", "onnx": "ONNX"}.get(format, format) for format in formats)
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if pick and ggufs:
        have = ", ".join(ggufs[:8])
        return FormatMissing(f'{where} has no {wanted} file "{pick}". It has {have}.', "Pick one of these.")
    if any(name.endswith(".safetensors") for name in names):
        return FormatMissing(
            f"{where} has safetensors weights, and {wanted} is needed.",
            "Look for a repository of the same name that ends in -GGUF, often of the same owner.",
        )
    data = [name for name in names if name.endswith(tuple(DATA))]
    if data and not any(format in formats for format in DATA.values()):
        return FormatMissing(
            f"{where} has {data[0]}, which is no language model, and carries no {wanted} weights.",
            f"As a model of tensors it is served on this machine: name it, as in …:{data[0]}, or write engine: triton.",
        )
    if ggufs and "gguf" not in formats:
        return FormatMissing(
            f"{where} has GGUF weights ({ggufs[0].rpartition('/')[2]}), and {wanted} is needed.",
            "Name the repository that they were made from, or another engine: llamacpp loads them as they are.",
        )
    if pickles := [name for name in names if is_pickle(name)]:
        return FormatMissing(f"{where} is refused: {why_not_pickle(pickles)}")
    have = ", ".join(names[:8]) or "nothing"
    return FormatMissing(f"{where} carries no {wanted} weights. It has {have}.", "Name a source that carries weights.")
