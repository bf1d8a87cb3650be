"""How many tokens a request should take, before an engine has counted them, and how many it took; sans I/O."""

import msgspec

from headrace.gateway.openai import Ask
from headrace.traffic import Finished

OUTPUT_TOKENS = 256
"""What a request is taken to generate that does not say how much it may."""
BYTES_PER_TOKEN = 4
"""Of English text in JSON, roughly; what it is wrong by is settled afterwards."""

_LIMITS_OF_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MOST = 999_999_999
_decode = msgspec.json.Decoder(int).decode


def estimated(ask: Ask, body: bytes, context: int | None, generates: bool) -> tuple[int, int]:
    """Tokens that a request should take: of its prompt, and at most of its answers. None takes more than its model's `context`,
    though images are many bytes.
    """
    prompt = len(body) // BYTES_PER_TOKEN + 1
    if context is not None and prompt > context:
        prompt = context
    if not generates:
        return prompt, 0
    output = OUTPUT_TOKENS
    fields = ask.fields
    for name in _LIMITS_OF_OUTPUT:
        if name in fields:
            try:
                asked = _decode(fields[name])
            except msgspec.DecodeError:
                break  # the engine will refuse it, or choose itself (null)
            if 0 <= asked <= _MOST:
                output = asked
            break
    if context is not None and output > context - prompt:
        output = max(1, context - prompt)
    return prompt, output * ask.choices if ask.choices > 1 else output


def taken(prompt: int, over: Finished, pieces: int) -> tuple[int, int]:
    """Tokens in and out of a request whose prompt was estimated: the engine's count where there is one, else what can be told by
    the pieces of its stream. Errors take nothing.
    """
    if over.tokens_out is not None:
        return over.tokens_in or prompt, over.tokens_out
    if over.replica and (over.status < 400 or over.status == 499):  # 499: the client left an engine that worked for it
        return prompt, pieces
    return 0, 0
