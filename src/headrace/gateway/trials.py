"""The paths by which whoever moves a model in a cluster watches its trial: what both sides answered, and a comparison on demand.

A trial that nobody asks about gets nothing: its guards are where the questions come from. A question with `watch=no` takes it
from the trial at once.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.gateway.openai import Refusal
from headrace.traffic import Finished, Load, Split

PATH = "/admin/trials"
UNWATCHED_SECONDS = 60.0
"""After so long without a question a trial gets no traffic."""
MOST_KEPT = 8192
"""Requests of one model that are kept until they are asked for."""


class Asked(msgspec.Struct, frozen=True):
    """Compare the two sides of a model on these prompts; with none, on made-up ones of about so many tokens."""

    model: str
    prompts: tuple[str, ...] = ()
    tokens: int = 64
    slower: float = 1.3


class Compared(msgspec.Struct, frozen=True):
    """See control/comparing.py."""

    trouble: str
    remark: str


Services = Callable[[str], tuple[str, str] | None]
Compare = Callable[[Asked], Coroutine[Any, Any, tuple[str, str]]]
"""(why the new one is no good, what was found)."""


@dataclass(slots=True)
class _Trial:
    split: Split
    asked: float = float("-inf")
    """When somebody who watches has asked last: nobody has yet, in a process that has just begun."""
    rows: deque[tuple[int, Finished, bool]] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))
    """(number, request, whether the trial had it), the newest last."""
    lost: int = 0
    """Attempts that the trial failed and the others answered."""
    lost_by: dict[str, int] = field(default_factory=dict)
    running: tuple[int, int] = (0, 0)
    """Requests at the old replicas, and at those on trial."""
    ready: tuple[int, int] = (0, 0)
    compared: Compared | None = None
    comparing: asyncio.Task[None] | None = None


class Trials:
    """Every trial of this gateway. `services` says of a model whose traffic goes where: (its Service, that on trial or "")."""

    def __init__(self, services: Services, share: Callable[[str], float], compare: Compare) -> None:
        self._services, self._share, self._ask_both = services, share, compare
        self._id = secrets.token_hex(4)
        self._count = 0
        self._trials: dict[str, _Trial] = {}

    def routes(self) -> list[Route]:
        """What goes into the admin application."""
        return [Route(PATH, self._shown, methods=["GET"]), Route(PATH, self._compare, methods=["POST"])]

    def watched(self, model: str) -> bool:
        """Whether somebody asked about the model's trial of late."""
        trial = self._trials.get(model)
        return trial is not None and monotonic() - trial.asked < UNWATCHED_SECONDS

    def see(self, model: str, split: Split | None, ready: tuple[int, int], load: Load, finished: Iterable[Finished]) -> None:
        """What became of a model since the last look; without a split it is on trial no more, and all of it is forgotten."""
        if split is None:
            if (gone := self._trials.pop(model, None)) is not None and gone.comparing is not None:
                gone.comparing.cancel()
            return
        trial = self._trials.setdefault(model, _Trial(split))
        # A pod that has ended between two looks is the trial's all the same.
        trial.split = Split(split.replicas | trial.split.replicas, split.share)
        for one in finished:
            self._count += 1
            trial.rows.append((self._count, one, one.replica in trial.split.replicas))
        for name, count in load.lost.items():
            if name in trial.split.replicas:
                trial.lost += max(0, count - trial.lost_by.get(name, 0))
                trial.lost_by[name] = count
        new = sum(count for name, count in load.running.items() if name in trial.split.replicas)
        trial.running, trial.ready = (sum(load.running.values()) - new, new), ready

    async def _shown(self, request: Request) -> Response:
        name = request.query_params.get("model", "")
        services = self._services(name)
        if services is None:
            raise Refusal(404, f'The model "{name[:200]}" is none in pods here.', "model_not_found", param="model")
        after, same = _number(request.query_params.get("after", "0")), request.query_params.get("id") == self._id
        trial, rows = self._trials.get(name), []
        if trial is not None:
            trial.asked = float("-inf") if request.query_params.get("watch") == "no" else monotonic()
            rows = [row for row in trial.rows if row[0] > (after if same else 0)]
        return _json(
            {
                "id": self._id,
                "next": self._count,
                "service": services[0],
                "trial": services[1],
                "share": self._share(name),
                "running": trial.running if trial else (0, 0),
                "ready": trial.ready if trial else (0, 0),
                "lost": trial.lost if trial else 0,
                "compared": trial.compared if trial else None,
                "finished": [_row(one, new) for _, one, new in rows],
            }
        )

    async def _compare(self, request: Request) -> Response:
        if request.headers.get("origin") is not None:
            raise Refusal(403, "No page may do this.", "origin_refused", "permission_error")
        try:
            asked = msgspec.json.decode(await request.body(), type=Asked)
        except msgspec.MsgspecError as error:
            raise Refusal(400, f"The body cannot be read: {error}.", "invalid_json") from None
        trial = self._trials.get(asked.model)
        if trial is None:
            raise Refusal(409, f'"{asked.model[:200]}" is not on trial here.', "not_on_trial", param="model")
        trial.asked = monotonic()
        if trial.comparing is None or trial.comparing.done():
            trial.compared = None
            trial.comparing = asyncio.create_task(self._ask(trial, asked))
        return _json({"comparing": asked.model}, 202)

    async def _ask(self, trial: _Trial, asked: Asked) -> None:
        try:
            trouble, remark = await self._ask_both(asked)
        except Exception as error:  # whoever watches waits for an answer
            trouble, remark = "", f"not compared: {error!r}"
        trial.compared = Compared(trouble, remark)

    async def close(self) -> None:
        """End what compares."""
        tasks = [trial.comparing for trial in self._trials.values() if trial.comparing is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _row(one: Finished, new: bool) -> tuple[Any, ...]:
    """Without whose it was."""
    return one.replica, one.status, one.tokens_in, one.tokens_out, one.waited, one.ttft, one.seconds, new


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refusal(400, '"after" must be a number.', "invalid_type", param="after")
    return int(text)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
