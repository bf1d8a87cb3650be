"""From tokens to text that may be sent: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Iterable, Sequence

SHOWN = frozenset({b"<think>", b"</think>", b"<tool_call>", b"</tool_call>", b"<tool_response>", b"</tool_response>"})
"""Tokens that a GGUF marks as special and that are part of the answer all the same (Qwen, Hermes)."""


class Stops:
    """Ends a text before the first of some strings, and holds back what may become one of them.

    The first is the one that is complete first. All that `feed` and `end` gave, put together, is the text up to there,
    however the text was split.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False
        """Whether one was found; what comes after it is ignored."""

    def feed(self, text: str) -> str:
        """What of the text so far is safe to send and was not sent yet."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` may be the beginning of `string`."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)


class Text:
    """The text of one answer as its tokens come: `vocabulary` has the bytes of each token, empty for those not shown."""

    def __init__(self, vocabulary: Sequence[bytes], stops: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = Stops(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: no further token matters."""
        return self._stops.stopped

    def add(self, tokens: Iterable[int]) -> str:
        """What may be sent now."""
        known = len(self._vocabulary)  # models have more numbers than tokens: their matrices are padded
        given = b"".join(self._vocabulary[token] for token in tokens if token < known)
        return self._stops.feed(self._characters.decode(given))

    def end(self) -> str:
        """The rest, once no more tokens come; a character that is not whole is U+FFFD."""
        return self._stops.feed(self._characters.decode(b"", final=True)) + self._stops.end()


def vocabulary(names: dict[bytes, int], shown: Sequence[str]) -> list[bytes]:
    """The bytes of each token, from a byte-level vocabulary and each token's text without special tokens.

    A token that is bytes of whole characters and has no text is special; it is left out, unless it is one of `SHOWN`.
    Raises ValueError where texts are not what their bytes say: a vocabulary of another kind, like SentencePiece's.
    """
    found = [b""] * len(shown)
    for name, token in names.items():
        found[token] = name
    return [_bytes(name, text) for name, text in zip(found, shown, strict=True)]


def _bytes(name: bytes, text: str) -> bytes:
    if text == name.decode("utf-8", "ignore") or name in SHOWN:
        return name
    if text:
        raise ValueError(f"the token {name!r} stands for {text!r}")
    return b""
