"""The client: connections that are kept and lent, requests sent over them, silence noticed."""

import asyncio
import ssl
from time import monotonic

from headrace.errors import plainly
from headrace.measure.address import Address
from headrace.measure.base import Outcome
from headrace.measure.wire import Wire

CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class Client:
    """Asks one server. An async context manager, which leaves no connection behind.

    A request that hears nothing for `stall` seconds, or takes longer than `longest`, is given up and counted as stalled.
    """

    def __init__(self, address: Address, path: str, key: str, *, stall: float, longest: float) -> None:
        self._address = address
        self._head = address.head(path, key)
        self._stall, self._longest = stall, longest
        self._ssl = ssl.create_default_context() if address.secure else None
        self._idle: list[Wire] = []
        self._busy: set[Wire] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Client":
        self._watch = asyncio.create_task(self._watching())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.give_up("The bench ended.")
        for wire in self._idle:
            wire.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return len(self._busy)

    async def ask(self, body: bytes, outcome: Outcome) -> None:
        """Send it and fill in `outcome`; a kept connection that proves dead before anything came is replaced once."""
        request = b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
        wire = self._kept()
        if wire is not None and not await self._exchange(wire, request, outcome):
            return
        wire = await self._connected(outcome)
        if wire is not None:
            await self._exchange(wire, request, outcome)

    def settle(self) -> None:
        """Bring the outcomes of what runs up to date: between two calls, what came is only kept with its time."""
        for wire in list(self._busy):
            wire.settle()

    def give_up(self, why: str) -> None:
        """End every exchange that runs."""
        for wire in list(self._busy):
            wire.give_up("unfinished", why)

    async def _exchange(self, wire: Wire, request: bytes, outcome: Outcome) -> bool:
        """Whether the connection was dead already."""
        self._busy.add(wire)
        done = wire.ask(request, outcome)
        try:
            return await done
        except asyncio.CancelledError:
            wire.give_up("unfinished", "The bench was stopped.")
            raise

    def _kept(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if not wire.closed and not wire.transport.is_closing():
                return wire
        return None

    async def _connected(self, outcome: Outcome) -> Wire | None:
        loop, where = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, wire = await loop.create_connection(lambda: Wire(self._released), where.host, where.port, ssl=self._ssl)
                return wire
        except TimeoutError:
            self._refused(outcome, f"No connection within {CONNECT_SECONDS:.0f} s.")
        except ssl.SSLError as error:
            self._refused(outcome, f"TLS failed: {error.reason or error}.")
        except OSError as error:
            self._refused(outcome, f"{plainly(error)}.")
        return None

    @staticmethod
    def _refused(outcome: Outcome, why: str) -> None:
        outcome.kind, outcome.detail, outcome.ended = "refused", why, monotonic()

    def _released(self, wire: Wire) -> None:
        self._busy.discard(wire)
        if not wire.closed:
            self._idle.append(wire)

    async def _watching(self) -> None:
        """Looks at all exchanges now and then: a timer for each chunk would cost more than the chunk."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.settle()
            now = monotonic()
            for wire in list(self._busy):
                if now - wire.heard > self._stall:
                    wire.give_up("stalled", f"Silence for more than {self._stall:g} s.")
                elif wire.outcome and now - wire.outcome.sent > self._longest:
                    wire.give_up("stalled", f"Not complete after {self._longest:g} s.")
