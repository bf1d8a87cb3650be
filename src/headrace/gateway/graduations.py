"""The paths of graduations: begin one, look, go back. For administrators, and without keys for this machine only."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, UsageError
from headrace.gateway.audit import asker
from headrace.gateway.http import host_is_loopback, origin_allowed
from headrace.gateway.openai import Refusal

PATH = "/admin/graduations"


class Graduations(Protocol):
    """What carries them out."""

    def asked(self, body: bytes, by: str) -> None:
        """Begin one as JSON says, for whoever `by` names. Raises UsageError, and ValueError for what cannot be read."""

    def abort(self, model: str, by: str) -> None:
        """Go back, as `by` asks. Raises UsageError."""

    def shown(self) -> Sequence[dict[str, Any]]:
        """Every one."""


class Asked:
    """The routes; `graduations` is there once there is a plan, `keyed` says that keys have judged who may ask."""

    def __init__(self) -> None:
        self.graduations: Graduations | None = None
        self.keyed = False
        self.busy: Callable[[], str] = lambda: ""
        """What keeps one from beginning now; empty when nothing does."""

    def routes(self) -> list[Route]:
        """What goes into the admin application."""
        return [
            Route(PATH, self._shown, methods=["GET"]),
            Route(PATH, self._begin, methods=["POST"]),
            Route(PATH + "/abort", self._abort, methods=["POST"]),
        ]

    async def _shown(self, request: Request) -> Response:
        return _json({"graduations": self.graduations.shown() if self.graduations else []})

    async def _begin(self, request: Request) -> Response:
        may_change(request, keyed=self.keyed)
        if why := self.busy():
            raise Refusal(409, f"No graduation begins now: {why}. Ask again once that is over.", "cannot_graduate")
        await self._do(lambda there, body: there.asked(body, asker(request.scope)), request)
        return _json({"graduations": self._there().shown()}, 202)

    async def _abort(self, request: Request) -> Response:
        may_change(request, keyed=self.keyed)
        await self._do(lambda there, body: there.abort(_Model.read(body), asker(request.scope)), request)
        return _json({"graduations": self._there().shown()}, 202)

    async def _do(self, what: Any, request: Request) -> None:
        there, body = self._there(), await request.body()
        try:
            what(there, body)
        except UsageError as error:
            raise Refusal(409, str(error), "cannot_graduate") from None
        except HeadraceError as error:
            raise Refusal(400, str(error), "cannot_graduate") from None
        except (ValueError, msgspec.MsgspecError) as error:
            raise Refusal(400, f"The body cannot be read: {error}.", "invalid_json") from None

    def _there(self) -> Graduations:
        if self.graduations is None:
            raise Refusal(503, "There is no plan yet: weights are still being fetched.", "not_planned", "server_error")
        return self.graduations


def may_change(request: Request, *, keyed: bool) -> None:
    """Without keys only this machine changes what runs, whatever --insecure lets others ask. Raises Refusal."""
    if not keyed and not (host_is_loopback(request.headers.raw) and origin_allowed(request.headers.raw)):
        raise Refusal(403, "Without keys this is for loopback names such as localhost.", "host_refused", "permission_error")
    origin = request.headers.get("origin")  # a page of another server on this machine is loopback too
    if origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower():
        raise Refusal(403, "Only Headrace's own pages may do this.", "origin_refused", "permission_error")


class _Model(msgspec.Struct):
    model: str

    @staticmethod
    def read(body: bytes) -> str:
        return msgspec.json.decode(body, type=_Model).model


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
