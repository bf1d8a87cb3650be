"""Where an answer that broke off goes on at another replica: the request for its rest, and that rest made one with its beginning.

No character of the beginning comes again or is lost, stop strings count across the seam, the rest carries the beginning's id,
and usage tells of the whole: what the engine counts as its prompt holds the text so far, which belongs to the answer.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.gateway.openai import Ask, Usage
from headrace.gateway.sofar import SoFar
from headrace.traffic import Continues

_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_COMPLETION_LIMIT = 16
"""Tokens of a completion whose request names no limit, by OpenAI's reference; vLLM and SGLang hold to it."""
_DONE = b"data: [DONE]\n\n"
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Seam:
    """An answer that is to be continued. `why` says what became of its first part; `done` is True once the rest is complete.

    For each attempt `body` comes first, then `feed` with every event that is no [DONE].
    """

    __slots__ = (
        "_again", "_ask", "_before", "_chat", "_dropped", "_fresh", "_held", "_limits", "_mute", "_sent", "_stops", "_tail",
        "done", "so_far", "stopped", "usage", "wants_usage", "why",
    )  # fmt: skip

    def __init__(self, so_far: SoFar, ask: Ask, why: str, *, chat: bool) -> None:
        self.so_far = so_far
        self.why = why
        self.done = self.stopped = False
        """`stopped`: at a stop string that the engine does not know of, for it began before the seam."""
        self.usage: Usage | None = None
        options = _value(ask, "stream_options")
        self.wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._ask = ask
        self._chat = chat
        self._stops = _stops(ask)
        self._limits = _limits(ask)
        self._before = self._sent = self._again = 0
        self._dropped = self._tail = self._held = ""
        self._mute = self._fresh = False

    @property
    def is_whole(self) -> bool:
        """Nothing is missing but the stream's own end."""
        return self.so_far.done or (self.so_far.finish is not None and (not self.wants_usage or self.so_far.usage is not None))

    def can(self, continues: Continues | None) -> bool:
        """Whether an engine of this kind can go on."""
        if not self.so_far.intact or self._limits is None or continues is None or (self._chat and continues == "prompt"):
            return False
        if self._chat:
            messages = _value(self._ask, "messages")
            last = messages[-1] if isinstance(messages, list) and messages else None
            return isinstance(last, dict) and last.get("role") != "assistant"
        return isinstance(_value(self._ask, "prompt"), str)

    def body(self, model: str, continues: Continues) -> bytes:
        """The request for the rest."""
        so_far, text = self.so_far, self.so_far.text
        # vLLM and SGLang render the text by the model's chat template, and many of those strip it: so it goes without the
        # spaces at its end, which come again.
        sent = text.rstrip() if self._chat and continues == "final_message" else text
        self._dropped = text[len(sent) :]
        self._fresh = not so_far.stamp
        self._again = 0
        self._before, self._sent = so_far.given, so_far.given - (so_far.blank if self._dropped else 0)
        self._held = ""
        longest = max(map(len, self._stops), default=1)
        self._tail = text[-(longest - 1) :] if longest > 1 else ""
        fields: dict[str, Any] = dict(self._ask.fields)
        fields |= {"model": model, "stream_options": {"include_usage": True}}
        fields |= self._limited(continues, self._sent)
        if sent:
            fields |= self._further(sent, continues)
        return _encode(fields)

    def feed(self, data: bytes) -> bytes:
        """What the client gets for an event of the rest. Raises msgspec.DecodeError and UnicodeDecodeError."""
        event = _decode(data, type=dict[str, Any])
        if not self.so_far.stamp:
            self.so_far.named(event)
        event.pop("timings", None)  # of the rest alone
        counts = self._count(event)
        choices = event.get("choices") or []
        said = [choice for choice in choices if isinstance(choice, dict) and self._joins(choice)]
        if not said and not counts:
            return b""
        event["choices"] = said
        return b"data: " + _encode(event | self.so_far.stamp) + b"\n\n"

    def ended(self) -> bytes:
        """[DONE]."""
        self.done = True
        return _DONE

    # ---- the request

    def _limited(self, continues: Continues, given: int) -> Mapping[str, Any]:
        """What is left of the request's limits. One token is asked for at least: also when none is left, it brings the usage."""
        limits = dict(self._limits or {})
        if not self._chat and continues == "final_message" and self._ask.fields.keys().isdisjoint(_LIMITS):
            limits["max_tokens"] = _COMPLETION_LIMIT
        most = [value for name, value in limits.items() if name in _LIMITS and value >= 0]
        self._mute = self.so_far.finish is not None or (bool(most) and min(most) <= given)
        if self._mute:
            return dict.fromkeys(limits.keys() & set(_LIMITS) or ("max_tokens",), 1) | (
                {"min_tokens": 0} if "min_tokens" in limits else {}
            )
        return {name: max(int(name in _LIMITS), value - given) if value >= 0 else value for name, value in limits.items()}

    def _further(self, text: str, continues: Continues) -> Mapping[str, Any]:
        if not self._chat:
            return {"prompt": _value(self._ask, "prompt") + text}
        messages = [*_decode(self._ask.fields["messages"], type=list[msgspec.Raw]), {"role": "assistant", "content": text}]
        final = {"continue_final_message": True, "add_generation_prompt": False} if continues == "final_message" else {}
        return {"messages": messages} | final

    # ---- its answer

    def _joins(self, choice: dict[str, Any]) -> bool:
        """Make a choice go on from the text so far; False when nothing of it is left to say."""
        finish, text, role = choice.get("finish_reason"), self._text(choice), self._role(choice)
        if self._mute:
            text, finish = "", ("length" if finish and not self.so_far.finish else None)
        text, self.stopped = self._across(self._unseen(text), last=bool(finish))
        finish = "stop" if self.stopped else finish
        choice["finish_reason"] = finish
        if self._chat:
            choice["delta"] = role | ({"content": text} if text or role else {})
        else:
            choice["text"] = text
        self.so_far.add(text)
        self.so_far.finish = finish or self.so_far.finish
        return bool(text or finish or role)

    def _role(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Whose answer it is, when the client has not been told."""
        delta = choice.get("delta")
        return {"role": delta["role"]} if self._fresh and isinstance(delta, dict) and delta.get("role") else {}

    def _text(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if any(value for name, value in delta.items() if name not in ("role", "content")):
            self.so_far.intact = False
        text = (delta.get("content") if self._chat else choice.get("text")) or ""
        return text if isinstance(text, str) else ""

    def _unseen(self, text: str) -> str:
        """`text` without what of it the client has already."""
        if not text or not self._dropped:
            return text
        pairs = zip(self._dropped, text, strict=False)
        same = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(self._dropped), len(text)))
        self._dropped = self._dropped[same:] if same == len(text) else ""
        self._again += same == len(text)
        return text[same:]

    def _across(self, text: str, *, last: bool) -> tuple[str, bool]:
        """What may be said of `text`, and whether a stop string that began before the seam ends in it.

        Held is what may yet become the end of such a one.
        """
        if not self._tail or not (text or last):
            return text, False
        new = self._held + text
        joined, seam = self._tail + new, len(self._tail)
        if any(0 <= joined.find(stop, max(0, seam - len(stop) + 1)) < seam for stop in self._stops):
            self._tail = self._held = ""
            return "", True
        may = any(stop.startswith(joined[at:]) for stop in self._stops for at in range(max(0, seam - len(stop) + 1), seam))
        self._held = new if may and not last else ""
        if not may or last:
            self._tail = ""
        return ("", False) if self._held else (new, False)

    def _count(self, event: dict[str, Any]) -> bool:
        """Make the usage in an event that of the whole answer; whether it is there and the client wants it."""
        usage = event.pop("usage", None)
        if not isinstance(usage, dict) or not isinstance(prompt := usage.get("prompt_tokens"), int):
            return False
        known = (self.so_far.usage or {}).get("prompt_tokens")
        prompt = known if isinstance(known, int) else max(0, prompt - self._sent)
        more = 0 if self._mute else max(0, (usage.get("completion_tokens") or 0) - self._again)
        completion = self._before + more
        self.usage = Usage(prompt, completion)
        if not self.wants_usage:
            return False
        whole = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        event["usage"] = self.so_far.usage = usage | whole
        return True


def _value(ask: Ask, name: str) -> Any:
    raw = ask.fields.get(name)
    return None if raw is None else _decode(raw)


def _limits(ask: Ask) -> Mapping[str, int] | None:
    """The limits that the request names; None where one of them cannot be read, though an engine could (100.5, "100")."""
    limits = {}
    for name in (*_LIMITS, "min_tokens"):
        try:
            value = _value(ask, name)
        except msgspec.DecodeError:  # a number out of range
            return None
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            return None
        limits[name] = int(value)
    return limits


def _stops(ask: Ask) -> tuple[str, ...]:
    given = _value(ask, "stop")
    found = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return tuple(stop for stop in found if isinstance(stop, str) and stop)
