"""The paths of reloads: read the file again, look how far that is. For administrators, and without keys for this machine only."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import UsageError
from headrace.gateway.graduations import may_change
from headrace.gateway.openai import Refusal

PATH = "/admin/reload"


class Reloads(Protocol):
    """What carries them out."""

    def asked(self, body: bytes) -> None:
        """Begin one as JSON says. Raises UsageError, and msgspec's errors for what cannot be read."""

    def shown(self) -> Mapping[str, Any] | None:
        """The newest; None when there was none."""


class Reloading:
    """The routes; `reloads` is there once there is a plan, `keyed` says that keys have judged who may ask."""

    def __init__(self) -> None:
        self.reloads: Reloads | None = None
        self.keyed = False

    def routes(self) -> list[Route]:
        """What goes into the admin application."""
        return [Route(PATH, self._shown, methods=["GET"]), Route(PATH, self._begin, methods=["POST"])]

    async def _shown(self, request: Request) -> Response:
        return _json(self.reloads)

    async def _begin(self, request: Request) -> Response:
        may_change(request, keyed=self.keyed)
        if self.reloads is None:
            raise Refusal(503, "There is no plan yet: weights are still being fetched.", "not_planned", "server_error")
        try:
            self.reloads.asked(await request.body())
        except UsageError as error:
            raise Refusal(409, str(error), "cannot_reload") from None
        except msgspec.MsgspecError as error:
            raise Refusal(400, f"The body cannot be read: {error}.", "invalid_json") from None
        return _json(self.reloads, 202)


def _json(reloads: Reloads | None, status: int = 200) -> Response:
    shown = reloads.shown() if reloads is not None else None
    return Response(msgspec.json.encode({"reload": shown}), status, media_type="application/json")
