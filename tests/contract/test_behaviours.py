"""Every engine behind Headrace, held to every promise that it makes or refuses; `engine_matrix.py` says which those are."""

import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from behaviours import PROMISES
from deployment import deployed
from engine_matrix import COLUMNS, cell, missing
from promises import Ignored, Kept, NotApplicable, Refused

from headrace.weights.cache import default_root

TABLE = Path(__file__).parents[2] / "scripts" / "engine_table.py"

pytestmark = pytest.mark.timeout(900)


def cells():
    """Engine by engine, so that each is started once."""
    for column in COLUMNS:
        marks = [getattr(pytest.mark, column.mark)] if column.mark else []
        for promised in PROMISES.values():
            if column.deploy and not isinstance(cell(column, promised), NotApplicable):
                yield pytest.param(column, promised.name, id=f"{column.name}-{promised.name}", marks=marks)


class Stage:
    """Has one engine deployed at a time, for all promises that come one after the other."""

    def __init__(self, folder):
        self._folder, self._column, self._deployment, self._exit = folder, None, None, AsyncExitStack()

    async def has(self, column):
        """The deployment of the engine. One that could not be deployed is not tried again."""
        if column is not self._column:
            await self.clear()
            self._column, self._deployment = column, None
            folder = self._folder / column.name
            folder.mkdir()
            given = await column.deploy(folder)
            compiled = Path(default_root(), "engines")  # where `headrace serve` has it: compiling takes longer than all the rest
            self._deployment = await self._exit.enter_async_context(deployed(given, compiled))
        assert self._deployment, f"{column.title} could not be deployed: see its first test"
        return self._deployment

    async def clear(self):
        await self._exit.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory):
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    await stage.clear()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("column", "promised"), list(cells()))
async def test_promise(stage, column, promised):
    if said := missing(column):
        pytest.skip(said)
    at = await stage.has(column)
    promise, expected = PROMISES[promised], cell(column, PROMISES[promised])
    match expected:
        case Kept():
            await promise.kept(at)
        case Refused():
            answer = await asked(at, promise)
            said = answer.json["error"]
            assert answer.status == expected.status, answer.body
            assert expected.words in (said if isinstance(said, str) else said["message"])
        case Ignored():
            answer = await asked(at, promise)
            assert answer.status == 200, answer.body
            with pytest.raises((AssertionError, LookupError, TypeError, ValueError)):
                await promise.kept(at)


async def asked(at, promise):
    """The answer to the promise's request, of the model that does its task, or else of the one there is."""
    model = next((model.name for model in at.plan.models if model.task == promise.task), None)
    request = promise.request if model else promise.request.of(at.plan.models[0].name)
    return await at.ask(request.path, request.body)


def test_exceptions_are_of_promises_that_there_are():
    for column in COLUMNS:
        assert column.exceptions.keys() <= PROMISES.keys()
        for name, exception in column.exceptions.items():
            assert exception.why
            assert PROMISES[name].request or isinstance(exception, NotApplicable), (column.name, name)


def test_the_page_in_the_documentation_says_what_is_declared():
    subprocess.run([sys.executable, str(TABLE), "--check"], check=True, timeout=60)
