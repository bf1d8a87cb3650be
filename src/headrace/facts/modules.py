"""Names of modules, as configs write them in many spellings, matched with ours."""

import re
from collections.abc import Iterable
from functools import lru_cache

_MOST_LENGTH, _MOST_STARS = 200, 4
"""Longer patterns, or with more wildcards, are not of this world and could be made to match for hours."""

_WRAPPERS = ("model", "language_model", "backbone", "transformer", "decoder")
_ALIASES = {
    **dict.fromkeys(("block_sparse_moe", "ffn", "feed_forward", "moe", "block_sparse_mlp"), "mlp"),
    **{"attn": "self_attn", "attention": "self_attn", "self_attention": "self_attn"},
    **{"shared_expert": "shared_experts", "share_expert": "shared_experts", "router": "gate"},
    **{"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj", "embed": "embed_tokens", "head": "lm_head"},
    # Nemotron-H calls whatever a layer does its mixer.
    "mixer": "*",
}


class Modules:
    """A set of modules: names, names with `*`, and `re:` expressions as compressed-tensors writes them."""

    def __init__(self, entries: Iterable[str]) -> None:
        patterns = {pattern for entry in entries for pattern in _patterns(entry)}
        self._names = {pattern for pattern in patterns if "*" not in pattern}
        globs = sorted(pattern for pattern in patterns if "*" in pattern)
        self._globs = re.compile("|".join(_expression(glob) for glob in globs)) if globs else None

    def __contains__(self, name: str) -> bool:
        """Whether the module `name`, or one that holds it, is meant."""
        plain = normal(name)
        return not self._names.isdisjoint(_runs(plain)) or bool(self._globs and self._globs.fullmatch(plain))


@lru_cache(maxsize=4096)
def normal(name: str) -> str:
    """`name` without wrappers and numbers of experts, in transformers' words: `layers.3.mlp.experts.up_proj`."""
    tokens = [_ALIASES.get(token, token) for token in name.split(".")]
    while len(tokens) > 1 and tokens[0] in _WRAPPERS:
        tokens.pop(0)
    return ".".join(token for at, token in enumerate(tokens) if not (token.isdecimal() and at and tokens[at - 1] == "experts"))


@lru_cache(maxsize=4096)
def _runs(name: str) -> frozenset[str]:
    """Every run of parts of a dotted name: a config may name the layer, the module in it, or a part of that alone."""
    tokens = name.split(".")
    ends = range(1, len(tokens) + 1)
    return frozenset(".".join(tokens[start:end]) for start in range(len(tokens)) for end in ends if end > start)


def _patterns(entry: str) -> list[str]:
    if len(entry) > _MOST_LENGTH:
        return []
    if entry.startswith("re:"):
        return [normal(pattern) for pattern in _alternatives(_as_glob(entry[3:])) if pattern.count("*") <= _MOST_STARS]
    return [normal(entry)] if entry and entry.count("*") <= _MOST_STARS else []


def _as_glob(expression: str) -> str:
    """A regular expression of the simple kind that configs hold, with * for everything that is not literal."""
    text = re.sub(r"\\d[+*]?|\.[*+]\??|\[[^\]]*\][+*]?", "*", expression)
    return re.sub(r"\*+", "*", text.replace("\\", "").replace("^", "").replace("$", "").replace("(?:", "("))


def _alternatives(glob: str, most: int = 32) -> list[str]:
    """`a(b|c)` as `ab` and `ac`."""
    found = [glob]
    while (at := next((index for index, text in enumerate(found) if "(" in text), None)) is not None and len(found) < most:
        text = found.pop(at)
        before, _, rest = text.partition("(")
        choices, _, after = rest.partition(")")
        found += [f"{before}{choice}{after}" for choice in choices.split("|")]
    return [text.replace("(", "").replace(")", "") for text in found[:most]]


def _expression(glob: str) -> str:
    """Also for modules inside of what is named, unless a star ends it and says so already."""
    text = ".*".join(re.escape(part) for part in glob.split("*"))
    return text if glob.endswith("*") else rf"{text}(?:\..*)?"
