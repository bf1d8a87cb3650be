"""The what-if page: a model on a machine that is chosen, planned by a process beside the gateway; the URL is the question."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.dashboard import files
from headrace.dashboard.answers import Answer, wrong
from headrace.dashboard.asking import AUTO, ENGINES, QUANTIZATIONS, Asked, Question, asked, source_of
from headrace.dashboard.worker import Task, Worker
from headrace.facts import catalogue
from headrace.gateway.openai import Refusal

PATH = "/dashboard/plan"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What plans are made with: the served models' sources by name, the question that the page begins with, the cache, the
    memory that models may take here, what this machine costs.
    """

    sources: Mapping[str, str]
    first: Question = field(default_factory=Question)
    cache: str | None = None
    memory: int | None = None
    usd_per_hour: float | None = None
    offline: bool = False
    worker: Worker = field(default_factory=Worker)


class PlanPage:
    """Its two paths: the page, and what it shows. Without keys the page comes with its answer, and needs no script."""

    def __init__(self, what_if: WhatIf, keyed: Callable[[], bool]) -> None:
        self._what_if, self._keyed = what_if, keyed

    def routes(self) -> list[Route]:
        """What goes into the admin application."""
        return [Route(PATH, self._page), Route("/admin/pages/plan", self._shown)]

    async def _page(self, request: Request) -> Response:
        if self._keyed():
            return files.page(request, "plan.html", plans=True, query=request.url.query, inline=False)
        try:
            values = await self._values(request)
        except Refusal as refusal:  # a page says it in words
            values = await self._values(request, refusal)
        return files.page(request, "plan.html", plans=True, query="", inline=True, **values)

    async def _shown(self, request: Request) -> Response:
        """The form with its answer, or the answer alone for the form, which then also stands in the address."""
        if request.headers.get("hx-target") != "answer":
            return files.page(request, "parts/plan.html", **await self._values(request))
        question = Question.of(request.query_params)
        answer = files.page(request, "parts/answer.html", alone=True, **await self._answered(question))
        answer.headers["HX-Replace-Url"] = f"{PATH}?{question.query}"
        return answer

    async def _values(self, request: Request, refusal: Refusal | None = None) -> dict[str, Any]:
        question = Question.of(request.query_params)
        choices = await asyncio.to_thread(_choices)
        found: dict[str, Any] = {"answer": wrong(refusal.message) if refusal else None, "asked": None}
        if question.model and not refusal:
            found = await self._answered(question)
        shown = question if question.model else self._what_if.first
        return {"question": shown, "served": self._what_if.sources, "alone": False, **choices, **found}

    async def _answered(self, question: Question) -> dict[str, Any]:
        source = source_of(question.model, self._what_if.sources, catalogue.known_models())
        if source is None:
            said = f'"{question.model}" is no model of the file and none of the catalogue. Write hf:org/name for one of the hub.'
            return {"answer": wrong(said if question.model else "Name a model."), "asked": None}
        if not self._what_if.worker.takes():
            raise Refusal(429, "Too many questions at once: wait a second.", "too_many_questions", "requests", retry_after=1)
        words = asked(question, source)
        return {"answer": await self._ask(words), "asked": words}

    async def _ask(self, words: Asked) -> Answer:
        there = self._what_if
        return await there.worker.answer(
            Task(words.text, words.machine, words.wanted, there.cache, there.memory, there.usd_per_hour, there.offline)
        )


@cache
def _choices() -> dict[str, Any]:
    """What can be chosen: GPUs, sizes to rent with their prices, known models, engines, number formats."""
    sizes = [
        (f"{sku.cloud}:{name}", f"{name.removeprefix('Standard_')} · {sku.gpus} x {sku.gpu.name}{_price(sku.price)}")
        for name, sku in catalogue.every_sku().items()
    ]
    return {
        "auto": AUTO,
        "gpus": tuple(catalogue.gpus()),
        "clouds": catalogue.clouds(),
        "sizes": sizes,
        "known": catalogue.known_models(),
        "engines": ENGINES,
        "quantizations": QUANTIZATIONS,
    }


def _price(price: Any) -> str:
    return f" · ${price.usd_per_hour:g}/h" if price else ""
