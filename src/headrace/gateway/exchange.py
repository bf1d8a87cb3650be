"""One request from its last byte to its answer's last: queued, sent, answered, tried again elsewhere, given up, left."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from headrace.gateway.admission import Reject
from headrace.gateway.converting import Converting, Unfolding
from headrace.gateway.http import Request, ResponseHead, request_head, response_head
from headrace.gateway.letter import Letter, letter
from headrace.gateway.openai import Ask, Refusal, Usage, rewritten, usage_in
from headrace.gateway.relay import TAIL_BYTES, Failing, Folding, Relay, Splice
from headrace.gateway.reply import framed, progress
from headrace.gateway.served import carry_out
from headrace.gateway.upstream import Pool, Upstream
from headrace.units import show_duration

if TYPE_CHECKING:
    from headrace.gateway.served import ServedModel
    from headrace.gateway.wire import Client

RETRIES = 2
"""Times that a request is sent again after a replica failed it before the first byte."""
FIRST_BYTE_SECONDS = 600.0
"""Longest prefill: how long an engine may take to its first byte."""
GAP_SECONDS = 300.0
"""Longest silence inside an answer; engines' own pings count as sound."""
PROGRESS_SECONDS = 5.0
"""How often a waiting stream is told what it waits for."""

_ELSEWHERE = frozenset((502, 503, 504))
_STALE_LIMIT = 8


class Exchange:
    """A request of the data path and what becomes of it. It is its own ticket in the queue."""

    __slots__ = (
        "_arrived", "_attempts", "_connecting", "_first_seen", "_held_since", "_letter", "_loop", "_over", "_paused", "_pool",
        "_relay", "_sent", "_stale", "_told", "_tried", "_upstream", "_waited",
        "ask", "chunks_seen", "client", "deadline", "model", "opened", "replica", "request", "request_id", "route",
    )  # fmt: skip

    def __init__(
        self,
        client: "Client",
        request: Request,
        request_id: bytes,
        model: "ServedModel",
        ask: Ask,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        now = monotonic()
        assert request.head.route
        self.client = client
        self.request = request
        self.route = request.head.route
        self.request_id = request_id
        self.model = model
        self.ask = ask
        self.replica = ""
        self.opened = False
        """The head of a stream was sent before an engine answered, to tell the client what it waits for."""
        self.chunks_seen = 0
        self.deadline = 0.0
        """When the engine's silence is too long; 0 while the request is not with one."""
        self._loop = loop
        self._arrived = self._held_since = self._told = now
        self._waited = 0.0
        self._attempts = self._stale = 0
        self._sent = self._first_seen = self._over = self._paused = False
        self._tried: frozenset[str] = frozenset()
        self._pool: Pool | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._letter: Letter | None = None
        """What the engine gets, where that is not the client's own bytes."""
        self._relay: Relay | None = None

    # ---- towards the engine

    def start(self) -> None:
        """Ask the queue for a slot."""
        self.client.begin(self)
        self.model.enter(self)
        carry_out(self.model.queue.arrived(self, self._arrived), self._arrived)

    def serve(self, replica: str, now: float) -> None:
        """The queue gave a slot at `replica`."""
        self._waited += now - self._held_since
        self.replica = replica
        self._pool = self.model.pools[replica]
        if self._pool.endpoint.speaks not in self.route.plain and not self._translate():
            return
        # After one stale connection a new one: it may be the request. What is not sent again needs one that cannot be stale.
        upstream = None if self._stale or not self.route.safe else self._pool.take()
        if upstream is not None:
            self._send(upstream)
        else:
            self._connecting = self._pool.connect(self._connected)

    def _translate(self) -> bool:
        assert self._pool
        try:
            self._letter = letter(self.request, self.ask, self._pool.endpoint, self.model, self.request_id.decode())
        except Refusal as refusal:
            self.refuse(refusal)
        return self._letter is not None

    def _connected(self, upstream: Upstream | None, reason: str) -> None:
        self._connecting = None
        if upstream is not None:
            self._send(upstream)
        else:
            self.model.suspect(self.replica, monotonic())
            self._again(counts=False, reason=reason, reached=False)

    def _send(self, upstream: Upstream) -> None:
        assert self._pool
        endpoint, request, ask = self._pool.endpoint, self.request, self.ask
        if self._letter is None:
            fold = endpoint.folds and not ask.stream and self.route.folds
            body, lines = request.body, request.head.lines_for_engine()
            if fold or not ask.sound or endpoint.model_there != ask.model:
                body = rewritten(ask, self.model.there(endpoint, ask.model), fold=fold)
        else:
            lines, body, _ = self._letter
        self._upstream = upstream
        self._relay = None
        now = monotonic()
        self.deadline = now + FIRST_BYTE_SECONDS
        if not self._sent:
            self._sent = True
            self.model.stats.wait.observe(self._waited)
            self.model.stats.overhead.observe(max(0.0, now - self._arrived - self._waited))
        head = request_head(lines, self._pool.host, len(body), self.request_id, endpoint.key)
        upstream.send(self, head, body, bodyless=request.head.method == "HEAD")
        if self._paused:
            upstream.pause()

    # ---- from the engine (see upstream.Answered)

    def head(self, head: ResponseHead) -> None:
        """The engine's verdict: an answer, an error, or a replica that cannot answer now."""
        assert self._pool
        if head.status >= 400 and self.route.kind != "upstream":
            if head.status in _ELSEWHERE and not head.never_again and self._may_go_elsewhere():
                self._drop_upstream()
                self._again(counts=True, reason=f"{self.replica} answered {head.status}")
            else:
                self._relay = Failing(self, head)
        elif self._letter is not None and self._letter.translation is not None:
            self._relay = Converting(self, head, self._letter.translation)
        elif self.opened and not head.event_stream:
            self._relay = Unfolding(self)
        elif head.event_stream and self._pool.endpoint.folds and not self.ask.stream and self.route.folds:
            self._relay = Folding(self)
        else:
            self._relay = Splice(self, head)

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """The whole answer, by the shortest way to the client."""
        self._upstream = None
        if self.opened or (self._letter is not None and self._letter.translation is not None):  # it is not for the client
            self.head(head)
            assert self._relay
            self._relay.body(body, None)
            self._relay.ended()
            return
        self.first_byte()
        framing = b"Content-Length: %d\r\n" % head.length
        self.client.write(response_head(head.status_line, head.lines, framing, self.request_id, self.client.own_lines) + body)
        self.completed(head.status, usage_in(body[-TAIL_BYTES:]) or usage_in(body[:TAIL_BYTES]), 0.0)

    def body(self, data: bytes, upstream: Upstream) -> None:
        """Bytes of the answer, with their framing."""
        if self._relay is not None:
            self._relay.body(data, upstream.chunks)

    def ended(self, upstream: Upstream) -> None:
        """The answer is complete; the connection is already free for the next request."""
        self._upstream = None
        if upstream.chunks is not None:
            self.chunks_seen = upstream.chunks.count
        if self._relay is not None:
            self._relay.ended()

    def broken(self, reason: str, *, stale: bool) -> None:
        """The engine will not complete its answer."""
        self._upstream = None
        if self._relay is not None and self._relay.begun:
            self._break_off(Refusal(502, f"The answer broke off: {reason}.", "engine_lost", "server_error"))
        elif stale and self._stale < _STALE_LIMIT:
            self._stale += 1
            self._again(counts=False, reason=reason)
        elif not self.route.safe:
            message = f"{reason}; it may have begun what was asked, so it was not asked again."
            self.refuse(Refusal(502, message, "engine_lost", "server_error"))
        else:
            self._again(counts=True, reason=reason)

    def first_byte(self) -> float:
        """Note that the first token is there; returns when that was, in monotonic seconds."""
        now = monotonic()
        if not self._first_seen:
            self._first_seen = True
            self.model.stats.first_token(now - self._arrived)
        return now

    # ---- its ends

    def completed(self, status: int, usage: Usage | None, first_at: float) -> None:
        """The whole answer has been given to the client."""
        if usage:
            seconds = monotonic() - first_at if first_at else 0.0
            self.model.stats.tokens(usage.tokens_in, usage.tokens_out, seconds)
        self._finish(status)

    def refuse(self, refusal: Refusal) -> None:
        """End with an error."""
        if self._over:
            return
        self._drop_upstream()
        if self.opened:
            self._break_off(refusal)
            return
        self.client.refuse(refusal, self.request_id)
        self._finish(refusal.status, served=False)

    def failed(self, refusal: Refusal) -> None:
        """The engine answered with an error: another replica is asked, when that may help and nothing was answered yet."""
        begun = self._relay is not None and self._relay.begun
        here = refusal.status in _ELSEWHERE and self._attempts < RETRIES and self.model.queue.capacity > 0
        if refusal.elsewhere and not begun and (here or self._may_go_elsewhere()):
            self._drop_upstream()
            self._again(counts=True, reason=f"{self.replica} answered: {refusal.message}")
            return
        if refusal.status == 429 and refusal.retry_after is None:
            refusal.retry_after = self.model.queue.retry_after()
        self.refuse_or_break(refusal)

    def refuse_or_break(self, refusal: Refusal) -> None:
        """End with an error, whatever the client has of the answer already."""
        self._drop_upstream()
        if self._relay is not None and self._relay.begun:
            self._break_off(refusal)
        else:
            self.refuse(refusal)

    def reject(self, effect: "Reject[Exchange]") -> None:
        """The queue refuses the request."""
        self.refuse(self.model.overloaded(effect.cause, effect.retry_after))

    def cancel(self) -> None:
        """The client is gone: free the engine. Many clients leave at [DONE], before the end of the framing."""
        if self._over:
            return
        if self._upstream is not None and self._upstream.chunks is not None:
            self.chunks_seen = self._upstream.chunks.count
        self._drop_upstream()
        if self._relay is not None and self._relay.given():
            self._relay.settle()
            return
        self.model.stats.disconnects += 1
        self._finish(499, served=False)

    def tick(self, now: float) -> None:
        """Time passed."""
        if self._upstream is not None and self._upstream.sounded():
            self.deadline = now + GAP_SECONDS
        elif self.deadline and now > self.deadline:
            self._drop_upstream()
            limit = GAP_SECONDS if self._relay else FIRST_BYTE_SECONDS
            self.broken(f"{self.replica} was silent for {show_duration(limit)}", stale=False)
        elif (
            not self.deadline
            and self.ask.stream
            and self.model.status.phase == "loading"
            and now - self._told >= PROGRESS_SECONDS
        ):
            self._told = now
            progress(self, now - self._arrived)

    # ---- the client's reading

    def pause(self) -> None:
        """The client reads slowly: so does the gateway."""
        self._paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._upstream is not None:
            self._upstream.resume()

    # ---- inside

    def _again(self, *, counts: bool, reason: str, reached: bool = True) -> None:
        """Back into the queue, ahead of the others, unless it was tried often enough."""
        self.deadline = 0.0
        self._relay = self._letter = None
        if counts and self._attempts >= RETRIES:
            message = f"{self._attempts + 1} attempts failed; the last: {reason}."
            self.refuse(Refusal(502, message, "engine_lost", "server_error"))
            return
        self._attempts += counts
        self._tried |= {self.replica}
        self.model.stats.retries += 1
        now = self._held_since = monotonic()
        carry_out(self.model.queue.retried(self, self._tried, now, reached=reached), now)

    def _break_off(self, refusal: Refusal) -> None:
        """The client has part of an answer: a stream ends with an error event and without its end, anything else is cut."""
        if self._over:
            return
        event = refusal.event(plain=self.route.plain_errors)
        if self._relay is not None and self._relay.begun:
            self.client.write(self._relay.farewell(event))
        else:
            self.client.write(framed(self, event))
        self.client.close_after()
        self._finish(refusal.status, served=False)

    def _may_go_elsewhere(self) -> bool:
        """Whether the request may be tried again, and there is a replica that has not failed it."""
        return self._attempts < RETRIES and self.model.has_other_than(self._tried | {self.replica})

    def _drop_upstream(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            upstream.abort()

    def _finish(self, status: int, *, served: bool = True) -> None:
        self._over = True
        self._relay = None
        now = monotonic()
        self.model.stats.finished(status, now - self._arrived)
        self.model.leave(self)
        effects = self.model.queue.left(self, now, served=served)
        self.client.finished()
        carry_out(effects, now)
