"""Continuous batching: requests go in, pieces of text come out, step by step.

`step()` holds the GIL, so it runs in the event loop itself: a thread for it would stop everybody else for as long, and then
compete with them. Between two steps the loop gets some turns, for what came in meanwhile to be read, parsed and queued.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from headrace.runners.openai import Refused
from headrace.runners.openvino_request import Prompt, Settings
from headrace.runners.openvino_text import Text
from headrace.runners.serving import Counts, cause

BLOCK_TOKENS = 32
"""Tokens in a block of the KV cache on a CPU."""

TURNS = 6
"""Of the event loop after each step: what it takes from a new connection to its prompt in the pipeline. Measured: a request on
a new connection has its first token after 10 steps with one turn, after 2 with six or more; an idle turn takes about 10 µs.
"""

CLEARING_STEPS = 3
"""Until the pipeline has let go of what was cancelled; it takes two."""


class Piece(NamedTuple):
    """More of the answer number `choice`. `tokens` are those generated since the last piece; `finish` is why it ended."""

    choice: int
    text: str
    tokens: int
    finish: str | None


class _Answer:
    """One answer: where it comes from and where it goes."""

    def __init__(self, index: int, prompt: Prompt, vocabulary: Sequence[bytes], out: "asyncio.Queue[Piece | Refused]") -> None:
        self.prompt = prompt
        self.handle: Any = None
        self.gone = False
        """Nobody waits for more of it."""
        self.generated: list[int] = []
        self._index, self._out = index, out
        self._text = Text(vocabulary, prompt.settings.stops)

    @property
    def blocks(self) -> int:
        """What it takes of the KV cache."""
        return -(-(len(self.prompt.tokens) + len(self.generated)) // BLOCK_TOKENS)

    @property
    def fresh(self) -> bool:
        """Whether a grammar is still to be made for it."""
        return self.prompt.settings.schema is not None and not self.generated

    @property
    def rest(self) -> Prompt:
        """What is left to do, for a pipeline that knows nothing of it."""
        settings = self.prompt.settings
        left = replace(settings, max_tokens=settings.max_tokens - len(self.generated))
        return Prompt((*self.prompt.tokens, *self.generated), left)

    def deliver(self, tokens: Sequence[int], reason: str) -> None:
        """Pass on what was generated; `reason` is OpenVINO's name for why it ended, NONE while it goes on."""
        self.generated += tokens
        text = self._text.add(tokens)
        finish = {"STOP": "stop", "LENGTH": "length"}.get(reason)
        if finish and not self._text.stopped:
            text += self._text.end()
        if self._text.stopped:
            finish = "stop"
        if text or finish or tokens:
            self._out.put_nowait(Piece(self._index, text, len(tokens), finish))
        self.gone = finish is not None

    def fail(self, error: Refused) -> None:
        self._out.put_nowait(error)
        self.gone = True


class Batching:
    """Runs prompts through `pipe`, at most `slots` at once, first come first served; `blocks` is the size of its cache,
    `tensor` makes what it takes of tokens.

    OpenVINO makes the grammar of a schema within a step, and when it cannot, the step fails for everybody in it. So there is
    one such request at a time; it is refused, and the others go on where they were. `broke` is called when a step fails for
    any other reason: the pipeline cannot be used after that.
    """

    def __init__(
        self,
        pipe: Any,
        slots: int,
        blocks: int,
        vocabulary: Sequence[bytes],
        counts: Counts,
        tensor: Callable[[Sequence[int]], Any],
    ) -> None:
        self._pipe, self._slots, self._blocks = pipe, slots, blocks
        self._vocabulary, self._counts, self._tensor = vocabulary, counts, tensor
        self._waiting: deque[_Answer] = deque()
        self._running: list[_Answer] = []
        self._task: asyncio.Task[None] | None = None
        self._requests = 0
        self.broken: str | None = None
        """Why no step is possible any more."""
        self.broke: Callable[[], None] = lambda: None

    async def pieces(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Piece, None]:
        """The answers to `prompts` as they come. Whoever stops reading frees their slots. Raises Refused."""
        out: asyncio.Queue[Piece | Refused] = asyncio.Queue()
        answers = [_Answer(index, prompt, self._vocabulary, out) for index, prompt in enumerate(prompts)]
        self._submit(answers)
        try:
            open_answers = len(answers)
            while open_answers:
                piece = await out.get()
                if isinstance(piece, Refused):
                    raise piece
                open_answers -= piece.finish is not None
                yield piece
        finally:
            self._leave(answers)

    def _submit(self, answers: Iterable[_Answer]) -> None:
        if self.broken is not None:
            raise _broken(self.broken)
        self._waiting.extend(answers)
        self._show()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def _leave(self, answers: Iterable[_Answer]) -> None:
        for answer in answers:
            if answer.gone:
                continue
            answer.gone = True
            if answer.handle is not None:
                answer.handle.cancel()
            else:
                self._waiting.remove(answer)
            self._counts.requests.labels("cancelled").inc()
        self._show()

    async def _run(self) -> None:
        """Step until nothing is left to do."""
        try:
            while self._waiting or self._running or self._pipe.has_non_finished_requests():
                self._admit()
                if self._stepped():
                    self._deliver()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except Exception as error:  # also a bug of ours: nobody may wait for ever
            self._fail(cause(error))

    def _stepped(self) -> bool:
        """Whether the step brought something; raises what makes another one impossible."""
        try:
            self._pipe.step()
        except Exception as error:
            if not self._recover(cause(error)):
                raise
            return False
        return True

    def _admit(self) -> None:
        grammar = any(answer.fresh for answer in self._running)
        while self._waiting and len(self._running) < self._slots and not (grammar and self._waiting[0].fresh):
            answer = self._waiting.popleft()
            grammar = grammar or answer.fresh
            if self._begin(answer):
                self._running.append(answer)
        self._show()

    def _begin(self, answer: _Answer) -> bool:
        """Give it to OpenVINO; whether that took it."""
        self._requests += 1  # ids are never used again: a second use of one ruins the pipeline
        rest = answer.rest
        try:
            config = configured(self._pipe.get_config(), rest.settings)
            answer.handle = self._pipe.add_request(self._requests, self._tensor(rest.tokens), config)
        except Exception as error:
            self._refuse(answer, Refused(400, f"OpenVINO refused the request: {cause(error)}", "invalid_value"))
            return False
        if not answer.generated:
            self._counts.tokens_in.inc(len(rest.tokens))
        return True

    def _recover(self, why: str) -> bool:
        """After a step that failed for the grammar of one request: refuse that one, and begin the others again from what
        they have said. Whether that could be done. A grammar that is half used cannot be taken up again.
        """
        if not any(answer.fresh for answer in self._running):
            return False
        for answer in self._running:
            answer.handle.cancel()
        try:
            for _ in range(CLEARING_STEPS):
                self._pipe.step()
        except Exception:
            return False
        if self._pipe.has_non_finished_requests():
            return False
        stopped, self._running = [answer for answer in self._running if not answer.gone], []
        for answer in stopped:
            answer.handle = None
            if answer.fresh:
                message = f"The schema cannot be used: {why}"
                self._refuse(answer, Refused(400, message, "unsupported_schema", "response_format"))
            elif answer.prompt.settings.schema is not None:
                self._refuse(answer, _broken("a step failed"))
        self._waiting.extendleft(answer for answer in reversed(stopped) if not answer.gone)
        return True

    def _deliver(self) -> None:
        """Pass on what the step brought, and let go of what has ended."""
        for answer in self._running:
            if answer.gone:
                continue
            for output in answer.handle.read().values() if answer.handle.can_read() else ():
                self._counts.tokens_out.inc(len(output.generated_ids))
                answer.deliver(output.generated_ids, output.finish_reason.name)
            status = answer.handle.get_status().name
            if answer.gone and status == "RUNNING":
                answer.handle.cancel()  # it said a stop string, which OpenVINO knows nothing of
            if not answer.gone and status != "RUNNING":  # nobody may wait for ever
                why = "the KV cache is full" if status == "IGNORED" else f"the request ended as {status}"
                self._refuse(answer, _broken(why))
            elif answer.gone:
                self._counts.requests.labels("done").inc()
        self._running = [answer for answer in self._running if answer.handle.get_status().name == "RUNNING"]
        self._show()

    def _refuse(self, answer: _Answer, error: Refused) -> None:
        answer.fail(error)
        self._counts.requests.labels("failed").inc()

    def _fail(self, why: str) -> None:
        self.broken = why
        for answer in (*self._running, *self._waiting):
            if not answer.gone:
                self._refuse(answer, _broken(why))
        self._running.clear()
        self._waiting.clear()
        self._show()
        self.broke()

    def _show(self) -> None:
        self._counts.running.set(len(self._running))
        self._counts.waiting.set(len(self._waiting))
        self._counts.cache_usage.set(min(1.0, sum(answer.blocks for answer in self._running) / self._blocks))


def configured(config: Any, settings: Settings) -> Any:
    """`config`, a GenerationConfig of the model, with the settings in it."""
    config.apply_chat_template = False  # prompts are rendered
    config.max_new_tokens = settings.max_tokens
    config.ignore_eos = settings.ignore_eos
    config.presence_penalty = settings.presence_penalty
    config.frequency_penalty = settings.frequency_penalty
    config.repetition_penalty = settings.repetition_penalty
    config.do_sample = settings.temperature > 0
    if config.do_sample:
        config.temperature = settings.temperature
        config.top_p = settings.top_p
        config.min_p = settings.min_p
        config.rng_seed = settings.seed
        if settings.top_k > 0:
            config.top_k = settings.top_k
    if settings.schema is not None:
        import openvino_genai

        config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=settings.schema)
    return config


def _broken(why: str) -> Refused:
    return Refused(500, f"The engine broke: {why}", "engine_error", kind="server_error")
