"""The dashboard's paths, put into the admin application: pages for anybody, what they show and do for administrators.

A page by itself says nothing of what is served: it asks for that under /admin/, where rights are looked at.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.dashboard import files
from headrace.dashboard.advising import Advice
from headrace.dashboard.bars import Bar, memory_bars, sum_bar
from headrace.dashboard.costs import Cost, cost
from headrace.dashboard.feed import Feed
from headrace.dashboard.past import SPANS, curves, tokens
from headrace.dashboard.plan_page import PlanPage
from headrace.dashboard.rows import Row
from headrace.dashboard.sight import Sight
from headrace.errors import HeadraceError
from headrace.gateway.audit import asker
from headrace.gateway.judging import nothing_at
from headrace.gateway.openai import Refusal
from headrace.units import show_duration

LOG_LINES = 200
"""Lines of a log on a page."""
SHOWN_DECISIONS = 50
_READERS = 2
"""Histories that are read at once: they are read in threads, beside the data path."""


class Dashboard:
    """The pages of one gateway."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self.feed = Feed(sight)
        self._readers = asyncio.Semaphore(_READERS)
        self._plans = PlanPage(sight.what_if, lambda: sight.keyed) if sight.what_if else None

    def mount(self) -> None:
        """Put the pages before the paths of the admin application; at `/` what is no browser gets what it always got."""
        router = self._sight.admin.app.router
        root = next(route for route in router.routes if isinstance(route, Route) and route.path == "/")

        async def front(request: Request) -> Response:
            if "text/html" in request.headers.get("accept", ""):
                return self._whole(request, "overview.html")
            answer: Response = await root.endpoint(request)
            return answer

        router.routes[:0] = [Route("/", front), *self._routes(), *(self._plans.routes() if self._plans else ())]

    async def _home(self, request: Request) -> Response:
        return RedirectResponse("/")

    def _routes(self) -> list[Route]:
        return [
            Route("/dashboard", self._home),
            Route("/dashboard/model/{name:path}", self._model_page),
            Route("/dashboard/static/{name:path}", self._static),
            Route("/playground", self._playground),
            Route("/admin/pages/overview", self._overview),
            Route("/admin/pages/memory", self._memory),
            Route("/admin/pages/model", self._model),
            Route("/admin/pages/replicas", self._replicas),
            Route("/admin/pages/graduation", self._graduation),
            Route("/admin/pages/advice", self._advice),
            Route("/admin/pages/log", self._log),
            Route("/admin/pages/history", self._history),
            Route("/admin/pages/models", self._models),
            Route("/admin/pages/live", self._live),
            Route("/admin/wanted", self._wanted, methods=["POST"]),
        ]

    # ---- pages, which say nothing

    def _whole(self, request: Request, template: str, **values: Any) -> Response:
        return files.page(request, template, plans=self._plans is not None, **values)

    async def _model_page(self, request: Request) -> Response:
        return self._whole(request, "model.html", name=request.path_params["name"])

    async def _playground(self, request: Request) -> Response:
        return self._whole(request, "playground.html")

    async def _static(self, request: Request) -> Response:
        answer = files.static(request, request.path_params["name"])
        if answer is None:
            raise nothing_at(request.url.path)
        return answer

    # ---- what they show

    async def _overview(self, request: Request) -> Response:
        rows, together = self.feed.rows()
        rows.sort(key=lambda row: row.cells["phase"] != "failed")  # what is in trouble is seen first
        return files.page(
            request, "parts/overview.html",
            rows=rows, together=together, bars=self._bars(), cost=await self._cost(), decisions=self._decisions(),
            absent=self._sight.control.absent,
        )  # fmt: skip

    async def _memory(self, request: Request) -> Response:
        return files.page(request, "parts/memory.html", bars=self._bars())

    def _bars(self) -> tuple[Bar, ...]:
        plan = self._sight.control.plan
        return memory_bars(plan, self._sight.control.replicas) if plan else ()

    async def _cost(self, model: str | None = None) -> Cost | None:
        """What the machine costs, or a model's part of it; None where no price is known."""
        usd, sight = self._sight.usd_per_hour, self._sight
        if usd is None:
            return None
        async with self._readers:
            counted = await asyncio.to_thread(tokens, sight.history, sight.admin.served, model)
        return cost(usd, sight.control.replicas, model, *counted)

    def _decisions(self, model: str | None = None) -> list[tuple[float, str, str]]:
        """The newest first, at seconds since 1970."""
        mine = [one for one in self._sight.decisions if model in (None, one[1])][-SHOWN_DECISIONS:]
        return [(self._sight.wall(at), name, said) for at, name, said in reversed(mine)]

    async def _model(self, request: Request) -> Response:
        name = self._named(request)
        planned = self._sight.planned(name)
        return files.page(
            request, "parts/model.html",
            row=self._row(name), planned=planned, bar=sum_bar(planned) if planned else None, cost=await self._cost(name),
            spans=SPANS, choices=self._sight.control.choices(name), absent=self._sight.control.absent,
        )  # fmt: skip

    async def _replicas(self, request: Request) -> Response:
        return files.page(request, "parts/replicas.html", row=self._row(self._named(request)))

    def _row(self, name: str) -> Row:
        return next(row for row in self.feed.rows()[0] if row.name == name)

    async def _graduation(self, request: Request) -> Response:
        """Where a model's graduation stands; with none under way, where it could go."""
        name, there = self._named(request), self._sight.admin.graduations.graduations
        run = next((one for one in there.shown() if one["model"] == name), None) if there else None
        moves: Sequence[tuple[str, str]] = ()
        why = "" if there else "There is no plan yet: weights are still being fetched."
        if there and (run is None or run["over"]):
            try:
                moves = await asyncio.to_thread(self._sight.control.moves, name)
            except HeadraceError as error:
                why = str(error)
        return files.page(request, "parts/graduation.html", model=name, run=run, moves=moves, why=why)

    async def _advice(self, request: Request) -> Response:
        """What was recorded of a model, judged."""
        name, advisor = self._named(request), self._sight.advisor
        advice = await advisor.advice() if advisor else Advice(error="No history is kept here.")
        rows, window = advice.models.get(name, []), show_duration(advice.seconds)
        verdict = advice.verdicts.get(name, "nothing is known of it")
        return files.page(request, "parts/advice.html", model=name, error=advice.error, rows=rows, window=window, verdict=verdict)

    async def _log(self, request: Request) -> Response:
        replica = request.query_params.get("replica", "")
        if replica not in {one.name for one in self._sight.control.replicas}:
            raise Refusal(404, "There is no such replica any more.", "not_found", "not_found_error")
        return files.page(request, "parts/log.html", replica=replica, lines=self._sight.control.logs(replica, LOG_LINES))

    async def _history(self, request: Request) -> Response:
        name, span = self._named(request), request.query_params.get("span", "1h")
        if span not in SPANS:
            raise Refusal(400, f"span is one of {', '.join(SPANS)}.", "invalid_value", param="span")
        async with self._readers:
            found = await asyncio.to_thread(curves, self._sight.history, name, SPANS[span], self._sight.admin.served)
        return _json(asdict(found))

    async def _models(self, request: Request) -> Response:
        """What the playground may talk to, each with the engine that it runs on."""
        models = self._sight.models.items()
        return _json([
            {"name": name, "task": one.status.task, "phase": one.status.phase, "engine": self._sight.engine(name)}
            for name, one in models
        ])  # fmt: skip

    async def _live(self, request: Request) -> Response:
        model = request.query_params.get("model")
        if model is not None:
            model = self._named(request)
        if self.feed.full:
            raise Refusal(503, "As many pages are open as may be; close one.", "too_many_pages", "server_error", retry_after=30)
        headers = files.HEADERS | {"Cache-Control": "no-store"}
        return StreamingResponse(self.feed.follow(model), headers=headers, media_type="text/event-stream")

    # ---- what they do

    async def _wanted(self, request: Request) -> Response:
        """`model=chat&want=2`: hold so many replicas, or what else a Wish may be. `seen` is the wish that the asking page showed:
        when somebody asked for another meanwhile, the answer says so. The last one counts.
        """
        if not _same_origin(request):
            raise Refusal(403, "Only Headrace's own pages may do this.", "origin_refused", "permission_error")
        fields = dict(parse_qsl((await request.body())[:4096].decode("utf-8", "replace"), keep_blank_values=True))
        name, want = fields.get("model", ""), fields.get("want", "")
        if name not in self._sight.models:
            raise self._sight.admin.gateway.unknown(name)
        before = self._sight.control.wishes.get(name, "")
        if problem := self._sight.control.wish(name, want, asker(request.scope)):
            raise Refusal(400, problem, "cannot_be", param="want")
        meanwhile = before if before and fields.get("seen", before) != before else None
        return _json({"model": name, "want": want} | ({"instead_of": meanwhile} if meanwhile else {}))

    def _named(self, request: Request) -> str:
        name = request.query_params.get("model", "")
        model = self._sight.admin.gateway.names.get(name)
        if model is None:
            raise self._sight.admin.gateway.unknown(name)
        return model.name


def _same_origin(request: Request) -> bool:
    """A page of another server on this machine may not act: it is loopback too, but not us."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == request.headers.get("host", "").lower()


def _json(value: Any) -> Response:
    return Response(
        msgspec.json.encode(value), headers=files.HEADERS | {"Cache-Control": "no-store"}, media_type="application/json"
    )
