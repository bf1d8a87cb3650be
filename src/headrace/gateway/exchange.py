"""One request from its last byte to its answer's last: queued, sent, answered, tried again elsewhere, given up, left."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from headrace.gateway.access_log import End, tell
from headrace.gateway.admission import Reject
from headrace.gateway.continuing import goes_on, relay_for
from headrace.gateway.http import Request, ResponseHead
from headrace.gateway.letter import Letter, letter, outgoing
from headrace.gateway.openai import Ask, Refusal, Usage, usage_of
from headrace.gateway.paths import Route
from headrace.gateway.relay import Failing, Relay
from headrace.gateway.reply import break_off, progress
from headrace.gateway.served import carry_out
from headrace.gateway.upstream import Pool, Upstream
from headrace.traffic import Endpoint, Finished
from headrace.units import show_duration

if TYPE_CHECKING:
    from headrace.gateway.accounts import Charge
    from headrace.gateway.seam import Seam
    from headrace.gateway.served import ServedModel
    from headrace.gateway.tracing import Trace
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
_NOBODY: frozenset[str] = frozenset()
_new = tuple.__new__  # a NamedTuple's own takes a third of a microsecond longer
_STALE_LIMIT = 8


class Exchange:
    """A request of the data path and what becomes of it. It is its own ticket in the queue."""

    __slots__ = (
        "_arrived", "_attempts", "_connecting", "_first_seen", "_held_since", "_letter", "_paused", "_pool", "_relay",
        "_sent", "_stale", "_told", "_upstream", "_usage", "_waited", "ask", "charge", "chunks_seen", "client", "deadline",
        "endpoint", "model", "opened", "over", "replica", "request", "request_id", "retries", "route", "seam", "trace", "tried",
    )  # fmt: skip

    def __init__(
        self, client: "Client", request: Request, request_id: bytes, model: "ServedModel", ask: Ask, route: Route, now: float
    ) -> None:
        self.client = client
        self.request = request
        self.route = route
        self.request_id = request_id
        self.model = model
        self.ask = ask
        self.replica = ""
        self.opened = False
        """The head of a stream was sent before an engine answered, to tell the client what it waits for."""
        self.deadline = 0.0
        """When the engine's silence is too long; 0 while the request is not with one."""
        self._arrived = self._held_since = self._told = now
        self._waited = self._first_seen = 0.0
        self._attempts = self._stale = self.chunks_seen = self.retries = 0
        self._sent = self.over = self._paused = False
        self.tried = _NOBODY
        """Replicas that failed it."""
        self._pool: Pool | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._letter: Letter | None = None
        """What the engine gets, where that is not the client's own bytes."""
        self._relay: Relay | None = None
        self._usage: Usage | None = None
        self.seam: Seam | None = None
        """Where a stream goes on that broke off at another replica."""
        self.trace: Trace | None = None

    # ---- towards the engine

    def start(self, charge: "Charge | None" = None) -> None:
        """Ask the queue for a slot. `charge` is what the request was let in for, when keys are asked for."""
        self.charge = charge
        self.client.begin(self)
        self.model.enter(self, self._arrived)

    def serve(self, replica: str, now: float) -> None:
        """The queue gave a slot at `replica`."""
        self._waited += now - self._held_since
        self.replica = replica
        if self.trace is not None:
            self.trace.served(self, self._held_since, now)
        self._pool = pool = self.model.pools[replica]
        self.endpoint: Endpoint = pool.endpoint
        if self.endpoint.speaks not in self.route.plain and not self._translate():
            return
        if self.seam is not None and not self.seam.can(self.endpoint.continues):
            self.refuse(Refusal(502, f"{replica} cannot go on with it.", "engine_lost", "server_error"))
            return
        # After one stale connection a new one: it may be the request. What is not sent again needs one that cannot be stale.
        upstream = None if self._stale or not self.route.safe else pool.take(now)
        if upstream is not None:
            self._send(upstream)
        else:
            self._connecting = pool.connect(self._connected)

    def _translate(self) -> bool:
        try:
            self._letter = letter(self.request, self.ask, self.endpoint, self.model, self.request_id.decode())
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
        head, body = outgoing(self, self._letter, self._pool.lines)
        self._upstream, self._relay = upstream, None
        now = monotonic()
        self.deadline = now + FIRST_BYTE_SECONDS
        if not self._sent:
            self._sent = True
            stats, waited = self.model.stats, self._waited
            stats.wait.observe(waited)
            stats.overhead.observe(now - self._arrived - waited)
        upstream.send(self, head, body, self.request.head.method == "HEAD")
        if self._paused:
            upstream.pause()

    # ---- from the engine (see upstream.Answered)

    def head(self, head: ResponseHead) -> None:
        """The engine's verdict: an answer, an error, or a replica that cannot answer now."""
        if head.status >= 400 and self.route.kind != "upstream":
            elsewhere = head.status in _ELSEWHERE or (head.status >= 500 and self.model.is_on_trial(self.replica))
            if elsewhere and not head.never_again and self._may_go_elsewhere():
                self.leave_engine()
                self._again(counts=True, reason=f"{self.replica} answered {head.status}")
            else:
                self._relay = Failing(self, head)
        else:
            self._relay = relay_for(self, head, self._letter)

    def whole(self, head: ResponseHead, body: bytes, now: float) -> None:
        """The whole answer, by the shortest way to the client."""
        self._upstream = None
        if self.opened or (self._letter is not None and self._letter.translation is not None):  # it is not for the client
            self.head(head)
            assert self._relay
            self._relay.body(body, None)
            self._relay.ended()
            return
        if not self._first_seen:
            self._first_seen = now
            self.model.stats.first_token(now - self._arrived)
        self.client.write(b"".join((head.whole, self.client.own_lines(), b"X-Request-Id: ", self.request_id, b"\r\n\r\n", body)))
        self.completed(head.status, usage_of(body), 0.0)

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
            if goes_on(self, self._relay, reason, last=self._attempts >= RETRIES):
                if not self.over:
                    self._again(counts=True, reason=reason)
                return
            self._break_off(Refusal(502, f"The answer broke off: {reason}.", "engine_lost", "server_error"))
        elif stale and self._stale < _STALE_LIMIT:
            self._stale += 1
            self._again(counts=False, reason=reason)
        elif not self.route.safe:
            message = f"{reason}; it may have begun what was asked, so it was not asked again."
            self.refuse(Refusal(502, message, "engine_lost", "server_error"))
        else:
            self._again(counts=True, reason=reason)

    def lost(self, reason: str) -> None:
        """The engine is given up, in the middle of its answer."""
        self.leave_engine()
        self.broken(reason, stale=False)

    def first_byte(self) -> float:
        """Note that the first token is there; returns when that was, in monotonic seconds."""
        now = monotonic()
        if not self._first_seen:
            self._first_seen = now
            self.model.stats.first_token(now - self._arrived)
        return now

    # ---- its ends

    def completed(self, status: int, usage: Usage | None, first_at: float) -> None:
        """The whole answer has been given to the client."""
        now = monotonic()
        if usage is not None:
            self._usage = usage
            self.model.stats.tokens(usage.tokens_in, usage.tokens_out, now - first_at if first_at else 0.0)
        self._finish(status, "resumed" if self.seam is not None and self.retries else "done", None, now)

    def refuse(self, refusal: Refusal) -> None:
        """End with an error."""
        if self.over:
            return
        self.leave_engine()
        if self.opened:
            self._break_off(refusal)
            return
        self.client.refuse(refusal, self.request_id)
        self._finish(refusal.status, "refused", refusal, monotonic())

    def failed(self, refusal: Refusal) -> None:
        """The engine answered with an error: another replica is asked, when that may help and nothing was answered yet."""
        begun = self._relay is not None and self._relay.begun
        here = refusal.status in _ELSEWHERE and self._attempts < RETRIES and self.model.queue.capacity > 0
        if refusal.elsewhere and not begun and (here or self._may_go_elsewhere()):
            self.leave_engine()
            self._again(counts=True, reason=f"{self.replica} answered: {refusal.message}")
            return
        if refusal.status == 429 and refusal.retry_after is None:
            refusal.retry_after = self.model.queue.retry_after()
        self.refuse_or_break(refusal)

    def refuse_or_break(self, refusal: Refusal) -> None:
        """End with an error, whatever the client has of the answer already."""
        self.leave_engine()
        if self._relay is not None and self._relay.begun:
            self._break_off(refusal)
        else:
            self.refuse(refusal)

    def reject(self, effect: "Reject[Exchange]") -> None:
        """The queue refuses the request."""
        self.refuse(self.model.overloaded(effect.cause, effect.retry_after))

    def cancel(self) -> None:
        """The client is gone: free the engine. Many clients leave at [DONE], before the end of the framing."""
        if self.over:
            return
        if self._upstream is not None and self._upstream.chunks is not None:
            self.chunks_seen = self._upstream.chunks.count
        self.leave_engine()
        if self._relay is not None and self._relay.given():
            self._relay.settle()
            return
        self.model.stats.disconnects += 1
        self._finish(499, "left", None, monotonic())

    def tick(self, now: float) -> None:
        """Time passed."""
        if self._upstream is not None and self._upstream.sounded():
            self.deadline = now + GAP_SECONDS
        elif self.deadline and now > self.deadline:
            self.lost(f"{self.replica} was silent for {show_duration(GAP_SECONDS if self._relay else FIRST_BYTE_SECONDS)}")
        elif not self.deadline and self.ask.stream and (self.seam or self.model.is_away) and now - self._told >= PROGRESS_SECONDS:
            self._told = now
            if self.route.streams:
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
            self.refuse(Refusal(502, f"{self._attempts + 1} attempts failed; the last: {reason}.", "engine_lost", "server_error"))
            return
        self._attempts += counts
        self.retries += 1
        if self.trace is not None:
            self.trace.lost()
        self.model.lost(self.replica)  # of a stale connection as well: an engine that dies looks like that
        self.tried |= {self.replica}
        self.model.stats.retries += 1
        now = self._held_since = monotonic()
        carry_out(self.model.queue.retried(self, self.tried, now, reached=reached), now)

    def _break_off(self, refusal: Refusal) -> None:
        """The client has part of an answer: a stream ends with an error event and without its end, anything else is cut."""
        if self.over:
            return
        break_off(self, refusal, self._relay, self._letter)
        self._finish(refusal.status, "broken", refusal, monotonic())

    def _may_go_elsewhere(self) -> bool:
        """Whether the request may be tried again, and there is a replica that has not failed it."""
        return self._attempts < RETRIES and self.model.has_other_than(self.tried | {self.replica})

    def leave_engine(self) -> None:
        """Whatever the engine does, nobody waits for it."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._upstream is not None:
            upstream, self._upstream = self._upstream, None
            upstream.abort()

    def _finish(self, status: int, end: End, refusal: Refusal | None, now: float) -> None:
        self.over, self._relay = True, None
        model, client, usage, arrived = self.model, self.client, self._usage, self._arrived
        t_in, t_out, cached = (usage.tokens_in, usage.tokens_out, usage.cached) if usage is not None else (None, None, 0)
        ttft, seconds = self._first_seen - arrived if self._first_seen else None, now - arrived
        waited = self._waited if self._sent else seconds
        key = self.charge.account.key.name if self.charge is not None else None
        over = _new(Finished, (arrived, model.name, self.replica, status, t_in, t_out, waited, ttft, seconds, key, cached))
        model.leave(self, over)
        effects = model.queue.left(self, now, end == "done" or end == "resumed")
        if self.trace is not None or client.gateway.log is not None:
            tell(self, over, end, refusal)
        client.finished(now)
        if effects:
            carry_out(effects, now)
