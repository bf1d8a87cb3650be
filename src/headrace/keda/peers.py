"""The other gateways: what each counts, asked when it is needed, and which models each finds active, told as it changes."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import grpc
import msgspec

SERVICE = "headrace.Gateways"
COUNTS = f"/{SERVICE}/Counts"
ACTIVE = f"/{SERVICE}/Active"
ASK_SECONDS = 2.0
_BACKOFF_SECONDS = (0.2, 5.0)
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),  # a peer whose node is gone says nothing
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),  # pods are reached as they are, whatever the environment says
)

log = logging.getLogger("headrace")


class Unknown(Exception):
    """What is asked cannot be known now, which is not zero."""


class Peer:
    """One other gateway. `active` is None while it does not tell; `draining` says that it is leaving, and may be silent."""

    def __init__(self, name: str, address: str, changed: Callable[[], None]) -> None:
        self.name, self.address, self.draining = name, address, False
        self.active: frozenset[str] | None = None
        self._changed = changed
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._counts = self._channel.unary_unary(COUNTS)
        self._task = asyncio.create_task(self._listen())

    async def counts(self) -> dict[str, int]:
        """Requests that wait or run there, by model. Raises Unknown."""
        try:
            told = await self._counts(b"", timeout=ASK_SECONDS)
            return msgspec.json.decode(told, type=dict[str, int])
        except grpc.aio.AioRpcError as error:
            raise Unknown(f"gateway {self.name} at {self.address} does not answer: {error.details()}") from None
        except msgspec.MsgspecError as error:
            raise Unknown(f"gateway {self.name} at {self.address} is another program or version: {error}") from None

    async def close(self) -> None:
        """Ask it no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _listen(self) -> None:
        least, most = _BACKOFF_SECONDS
        wait = least
        while True:
            try:
                async for told in self._channel.unary_stream(ACTIVE)(b""):
                    self._tell(frozenset(msgspec.json.decode(told, type=list[str])))
                    wait = least
            except (grpc.aio.AioRpcError, msgspec.MsgspecError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                if self.active is not None and not self.draining:
                    log.warning("gateway %s at %s tells its load no more: %s", self.name, self.address, reason)
            self._tell(None)
            await asyncio.sleep(wait)
            wait = min(most, wait * 2)

    def _tell(self, active: frozenset[str] | None) -> None:
        if active != self.active:
            self.active = active
            self._changed()


class Peers:
    """All other gateways. `known` is False until it was said which there are."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.known = False
        self._changed = changed
        self._peers: dict[tuple[str, str], Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def update(self, addresses: Mapping[str, tuple[str, bool]]) -> None:
        """Who is there now: (address as host:port, whether it is leaving) by name."""
        wanted = {(name, address): draining for name, (address, draining) in addresses.items()}
        for key in self._peers.keys() - wanted.keys():
            closing = asyncio.create_task(self._peers.pop(key).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for key, draining in wanted.items():
            if key not in self._peers:
                self._peers[key] = Peer(*key, self._changed)
            self._peers[key].draining = draining
        self.known = True
        self._changed()  # one that was silent may be gone: what is known is more than before

    def active(self, model: str) -> bool | None:
        """Whether the model is active at any of them; None when none says so and one that should say does not."""
        told = [peer.active for peer in self._peers.values() if peer.active is not None or not peer.draining]
        if any(each is not None and model in each for each in told):
            return True
        return None if not self.known or None in told else False

    def silent(self) -> str:
        """Why something is not known, in words."""
        if not self.known:
            return "it is not known yet which other gateways there are"
        named = [f"{peer.name} at {peer.address}" for peer in self._peers.values() if peer.active is None and not peer.draining]
        return f"gateway {', '.join(named)} does not tell its load" if named else "another gateway does not tell its load"

    async def count(self, model: str) -> int:
        """Requests for the model at all of them, asked now. Raises Unknown when one that is not leaving does not answer."""
        if not self.known:
            raise Unknown(self.silent())
        peers = list(self._peers.values())
        answers = await asyncio.gather(*(peer.counts() for peer in peers), return_exceptions=True)
        total = 0
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, Unknown) and peer.draining:
                continue
            if isinstance(answer, BaseException):
                raise answer
            total += answer.get(model, 0)
        return total

    async def close(self) -> None:
        """Leave them all."""
        await asyncio.gather(*(peer.close() for peer in self._peers.values()), *self._closing)
        self._peers.clear()
