"""Prompts of a wished length that share nothing unless they shall: made of common words, each behind a number of its own."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headrace.errors import UsageError

Api = Literal["chat", "completions"]
Uniform = Callable[[], float]

# Common English words that most tokenizers know as one token with the space before them.
_COMMON = (
    "the of and to in is was for that with as his on be at by had not are but from or have an they which one you were all "
    "her she there would their we him been has when who will no more if out so up said what its about than into them can "
    "only other time new some could these two may first then do any like my now over such our man me even most made after "
    "also did many before must through back years where much your way well down should because each just those people how "
    "too little state good very make world still see own work long here get both between life being under never day same "
    "another know while last might us great old year off come since against go came right used take three water river stone "
    "house light field road north south table paper morning winter garden bridge market island forest summer window letter "
    "music story number "
)
WORDS = _COMMON.split()
_PIECE = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """How a server counts: tokens of a request = `base` + `each` × words."""

    base: float = 0.0
    each: float = 1.0

    def words(self, tokens: int) -> int:
        """How many words make a prompt of so many tokens; at least one."""
        return max(1, round((tokens - self.base) / self.each))


def fit(first: tuple[int, int], second: tuple[int, int]) -> Fit | None:
    """By two requests' (words, prompt tokens); None when they make no sense together."""
    (few, less), (many, more) = first, second
    each = (more - less) / (many - few) if many != few else 0.0
    return Fit(max(0.0, less - each * few), each) if 0.5 <= each <= 10 else None


def text(words: int, number: int, uniform: Uniform, shared: int = 0) -> str:
    """`words` words; the first `shared` are the same in all, the rest begins with `number`, so that no cache knows it."""
    same = [WORDS[place * 7 % len(WORDS)] for place in range(min(shared, words))]
    if words <= len(same):
        return " ".join(same)
    own: list[str] = []
    while len(own) < words - len(same) - 1:  # pieces of a few words: a draw for each would take longer than sending it
        start = int(uniform() * (len(WORDS) - _PIECE))
        own += WORDS[start : start + _PIECE]
    return " ".join([*same, str(number), *own[: words - len(same) - 1]])


def body(api: Api, model: str, prompt: object, output: int, extra: Mapping[str, Any]) -> bytes:
    """A request; `prompt` is a text, or the messages of a chat."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    asked = {"messages": messages} if api == "chat" else {"prompt": prompt}
    return json.dumps({"model": model, **asked, "max_tokens": output, "temperature": 0, "stream": True, **extra}).encode()


def read(lines: Sequence[str], name: str, api: Api) -> list[tuple[object, int | None]]:
    """(prompt or messages, output limit) of each line of JSON: a list of messages, or an object with `messages` or `prompt`, and
    perhaps `max_tokens`. Raises UsageError with the line.
    """
    found = [_line(line, f"{name}:{number}", api) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{name}: there are no prompts in it.")
    return found


def _line(line: str, where: str, api: Api) -> tuple[object, int | None]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: this is not JSON: {error}.") from None
    value = {"messages": value} if isinstance(value, list) else {"prompt": value} if isinstance(value, str) else value
    limit = value.get("max_tokens") if isinstance(value, dict) else None
    prompt = (value.get("messages") or value.get("prompt")) if isinstance(value, dict) else None
    if not prompt or not (isinstance(prompt, str) or (isinstance(prompt, list) and api == "chat")):
        raise UsageError(f"{where}: there is no prompt in this line.", 'Write {"messages": [{"role": "user", "content": "…"}]}.')
    return prompt, limit if isinstance(limit, int) and limit > 0 else None


def cycled(found: Sequence[tuple[object, int | None]], output: int) -> Iterator[tuple[object, int]]:
    """Over and over, with the limit of each line, else `output`."""
    while True:
        for prompt, limit in found:
            yield prompt, limit or output
