"""Code of the user's own as replicas of a target, and the examples of its page."""

import asyncio
import re
import tempfile
from pathlib import Path

import pytest
from custom_process import running
from engine_client import Server

from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.targets.base import Start, State
from headrace.targets.http import ask, get
from headrace.targets.local import LocalTarget

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "custom.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))

HANGS = """
import threading

class Hangs:
    def predict(self, batch):
        if "hang" in batch: threading.Event().wait()
        return batch
"""

SERVER = """
import http.server, os, socketserver, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer " + os.environ["ENGINE_KEY"]
        self.send_response(200 if self.path == "/up" and known else 404)
        self.end_headers()
    def address_string(self):
        return "somebody"

class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): pass

where = sys.argv[1]
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(where)), Handler) if where.isdigit() else UnixServer(where, Handler)
server.serve_forever()
"""


@pytest.fixture
async def replica():
    """`replica(placement)` is a Server of it, ready."""
    servers = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:

        async def started(placement):
            target = LocalTarget(engines(), Path(folder))
            servers.append(Server(target))
            await target.apply([Start("own-1", "own", placement, placement.slots, "a test wants it")])
            await servers[-1].replica(lambda replica: replica.state is State.READY)
            return servers[-1]

        yield started
        for server in servers:
            await server.close()


async def failed(target):
    """The replica once it has failed."""
    async with asyncio.timeout(60):
        while (found := (await target.observe())[0]).state is not State.FAILED:
            await target.changed(0.05)
    return found


async def test_a_replica_that_hangs_is_gone_with_the_cause_and_can_be_started_again(replica, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    placement = Placement("own", "custom", "infer", str(tmp_path / "hangs.py"), 0, 16, 1, 0, {"limit_seconds": 0.3})
    server = await replica(placement)
    assert (await server.ask("POST", "/v1/models/own:predict", {"instances": ["hang"]})).status == 504
    found = await failed(server.target)
    assert found.exit_code == 1
    assert found.reason.endswith("last line: Hangs.predict did not return within 0.3s: the process ends")
    await server.target.apply([Start("own-1", "own", placement, 16, "it failed")])
    await server.replica(lambda replica: replica.state is State.READY)
    assert (await server.ask("POST", "/v1/models/own:predict", {"instances": [1]})).json == {"predictions": [1]}


async def test_a_class_that_cannot_be_loaded_is_a_failure_with_its_cause(tmp_path):
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        target = LocalTarget(engines(), Path(folder))
        placement = Placement("own", "custom", "infer", str(tmp_path / "broken.py"), 0, 16, 1, 0)
        await target.apply([Start("own-1", "own", placement, 16, "a test wants it")])
        found = await failed(target)
        await target.close()
    assert found.exit_code == 3
    assert "cannot load broken.py: broken.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'" in found.reason


@pytest.mark.parametrize("place", ["{port}", "{socket}"])
async def test_a_command_is_started_asked_at_its_own_path_and_told_its_key(replica, tmp_path, place):
    (tmp_path / "server.py").write_text(SERVER)
    options = {"command": ("python", "server.py", place), "ready": "/up", "speaks": "http", "folder": str(tmp_path)}
    server = await replica(Placement("own", "custom", "infer", "", 0, 16, 1, 0, options))
    endpoint = (await server.replica(lambda replica: replica.endpoint)).endpoint
    assert endpoint.address.startswith("http://127.0.0.1:" if place == "{port}" else "unix:")
    assert endpoint.speaks == "http"
    assert (await get(endpoint.address, "/up", 5, endpoint.key)).status == 200
    assert (await get(endpoint.address, "/up", 5)).status == 404
    assert (await ask(endpoint.address, "GET", "/metrics", b"", 5, endpoint.key)).status == 404
    assert (await server.replica()).reading is None  # not known, and no trouble


SAID = {
    "fraud.py": [({"instances": [[1, 2, 3], [4, 5, 6]]}, {"predictions": [1.0, 1.0]})],
    "typed.py": [
        ({"instances": [{"amount": -1}]}, {"error": "instances[0].amount: Input should be greater than or equal to 0"}),
        ({"instances": [{"amount": 150}]}, {"predictions": [{"fraud": True, "score": 0.75}]}),
    ],
    "arrays.py": [({"instances": [[1, 2, 3]]}, {"predictions": [6.0]})],
    "count.py": [({"instances": [2]}, {"predictions": [[{"number": 0}, {"number": 1}]]})],
}


@pytest.mark.parametrize("name", SAID)
async def test_the_examples_of_the_page_do_what_it_says(tmp_path_factory, name):
    async with running(tmp_path_factory.mktemp("c"), EXAMPLES[name]) as process:
        for body, answer in SAID[name]:
            assert (await process.ask("/v1/models/fraud:predict", body)).json == answer
        if name == "count.py":
            streamed = await process.ask("/v1/models/fraud:predict", {"instances": [1], "stream": True})
            assert streamed.body == b'data: {"number":0}\n\ndata: [DONE]\n\n'


async def test_the_chat_of_the_page_chats(tmp_path_factory):
    async with running(tmp_path_factory.mktemp("c"), EXAMPLES["echo.py"], "generate") as process:
        body = {"messages": [{"role": "user", "content": "to be"}], "top_p": 1}
        answer = (await process.ask("/v1/chat/completions", body)).json
        assert answer["choices"][0]["message"]["content"] == "to be "
        assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 12)


def test_every_example_of_the_page_is_run():
    assert set(EXAMPLES) == {*SAID, "echo.py"}
    assert PAGE.read_text().count("```python") == len(EXAMPLES)
