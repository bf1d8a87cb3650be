"""A user's class in a process of its own: what it may do wrong, how it is asked, and how it ends."""

import asyncio
import json
import struct

import numpy as np
import pytest
from custom_process import running

from headrace.engines.custom import ENGINE
from headrace.runners import tensors

pytestmark = pytest.mark.real


@pytest.fixture
def here(tmp_path_factory):
    """A folder with a short name: sockets have a longest."""
    return tmp_path_factory.mktemp("c")


TROUBLE = """
import sys, time, threading

class Trouble:
    def predict(self, batch):
        if "gate" in batch:
            open("gated", "w").close()
            while not __import__("os").path.exists("open"): time.sleep(0.005)
        for value in batch:
            if value == "raise": raise ValueError("negative amount")
            if value == "status": raise BadInput("not a country")
            if value == "exit": sys.exit("bye")
            if value == "stop": raise StopIteration
            if value == "none": return None
            if value == "few": return batch[1:]
            if value == "generator": return (each for each in batch)
            if value == "hang": threading.Event().wait()
        return [self.one(value) for value in batch]

    def one(self, value):
        if value == "object": return object()
        if value == "own": return KeyError("unknown customer")
        return float("nan") if value == "nan" else value

class BadInput(Exception):
    status = 422
"""

ONE_BAD = [
    ("raise", 500, "Trouble.predict raised ValueError: negative amount"),
    ("status", 422, "Trouble.predict raised BadInput: not a country"),
    ("exit", 500, "Trouble.predict raised SystemExit: bye"),
    ("stop", 500, "Trouble.predict raised StopIteration"),
    ("none", 500, "Trouble.predict returned NoneType; it must return a list with an output for each of 1 inputs"),
    ("few", 500, "Trouble.predict returned 0 outputs for 1 inputs"),
    ("generator", 500, "Trouble.predict returned generator"),
    ("object", 500, "Trouble.predict returned what is no JSON"),
    ("own", 500, "Trouble.predict raised KeyError: 'unknown customer'"),
]


async def test_what_goes_wrong_with_one_request_is_its_own(here):
    """Each bad input in a batch with two good ones, which are answered."""
    async with running(here, TROUBLE) as process:
        for value, status, message in ONE_BAD:
            gate = await process.send("/v1/models/fraud:predict", {"instances": ["gate"]})
            await process.until("requests_running", 1)
            asked = [await process.send("/v1/models/fraud:predict", {"instances": each}) for each in ([1], [value], [2, 3])]
            await process.until("requests_waiting", 3)
            (here / "open").touch()
            good, bad, also_good = [await exchange.until() for exchange in asked]
            (here / "open").unlink()
            assert (await gate.until()).json == {"predictions": ["gate"]}
            assert (good.json, also_good.json) == ({"predictions": [1]}, {"predictions": [2, 3]}), value
            assert bad.status == status
            assert bad.json["error"].startswith(message)
        assert "ValueError: negative amount" in process.log  # with its traceback, which clients do not get
        assert 'model.py", line 10, in predict' in process.log
        assert "custom_worker.py" not in process.log
        assert await process.metric("batch_size_sum") > 0


async def test_numbers_that_json_has_not_are_null(here):
    async with running(here, TROUBLE) as process:
        assert (await process.predict("nan", 1)).json == {"predictions": [None, 1]}


async def test_a_call_that_hangs_ends_the_process_and_nobody_waits_for_it(here):
    async with running(here, TROUBLE, limit_seconds=0.5) as process:
        hung = await process.send("/v1/models/fraud:predict", {"instances": ["hang"]})
        await process.until("requests_running", 1)
        waiting = [await process.send("/v1/models/fraud:predict", {"instances": [1]}) for _ in range(5)]
        answer = await hung.until()
        assert (answer.status, answer.json["error"]) == (504, "Trouble.predict did not return within 0.5s")
        assert answer.headers["x-should-retry"] == "false"
        for exchange in waiting:
            answer = await exchange.until()
            assert answer.status == 503
            assert "did not return within 0.5s, and this replica restarts" in answer.json["error"]
        assert await process.over() == 1
        assert "threading.Event().wait()" in process.log  # where it hangs
        assert process.log.splitlines()[-1] == "Trouble.predict did not return within 0.5s: the process ends"


async def test_an_async_call_that_hangs_is_cancelled_and_the_process_lives(here):
    code = """
    import asyncio

    class Remote:
        async def load(self):
            self.event = asyncio.Event()
        async def predict(self, batch):
            if "hang" in batch: await self.event.wait()
            return batch
    """
    async with running(here, code, limit_seconds=0.2) as process:
        answer = await process.predict("hang")
        assert (answer.status, answer.json["error"]) == (504, "Remote.predict did not return within 0.2s and was cancelled")
        assert (await process.predict(1)).json == {"predictions": [1]}


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import nowhere_to_be_found\n", "cannot load model.py: model.py:1: ModuleNotFoundError: No module named 'nowhere_to_be"),
        ("class A:\n  def predict(self batch): pass\n", "cannot load model.py: model.py:2: invalid syntax"),
        ("1 / 0\n", "cannot load model.py: model.py:1: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit()\n", "cannot load model.py: model.py:2: SystemExit"),
        ("def predict(batch): pass\n", "cannot load model.py: no class in it has a method predict, chat, embed, rerank"),
        (
            "class A:\n  def predict(self, b): pass\nclass B(A): pass\nclass C:\n  def predict(self, b): pass\n",
            "cannot load model.py: several classes can be served: B, C",
        ),
        (
            "class A:\n  def embed(self, b): pass\n",
            "cannot load model.py: `task: infer` needs the method predict, and A has embed",
        ),
        (
            "class A:\n  def __init__(self, x): pass\n  def predict(self, b): pass\n",
            "cannot load model.py: A() raised: TypeError",
        ),
        (
            "class A:\n  def load(self):\n    open('weights.bin')\n  def predict(self, b): pass\n",
            "cannot load model.py: A.load raised: model.py:3: FileNotFoundError: [Errno 2] No such file or directory: 'weig",
        ),
        (
            "class A:\n  async def load(self):\n    raise KeyError('x')\n  def predict(self, b): pass\n",
            "cannot load model.py: A.load raised: model.py:3: KeyError: 'x'",
        ),
        ("class A:\n  def predict(self, b: int): pass\n", "cannot load A.predict: it is declared with int; a batch is list[X]"),
        ("class A:\n  def predict(self, b: 'Nope'): pass\n", "cannot load A.predict: its annotations cannot be read: NameError"),
        ("class A:\n  def predict(self): pass\n", "cannot load A.predict: it takes nothing"),
        (
            "class X: pass\nclass A:\n  def predict(self, b: list[X]): pass\n",
            "cannot load A.predict: X cannot be checked: Unable to generate pydantic-core schema",
        ),
        (
            "import threading\nthreading.Thread(target=threading.Event().wait).start()\nraise RuntimeError('late')\n",
            "cannot load model.py: model.py:3: RuntimeError: late",  # a thread of the user's does not keep it alive
        ),
    ],
)
async def test_a_class_that_cannot_be_loaded_is_exit_code_3_with_the_cause(here, code, last):
    async with running(here, code, ready=False) as process:
        assert await process.over() == 3
        assert process.log.splitlines()[-1].startswith(last), process.log


async def test_a_file_that_is_not_there_and_a_class_that_is_not_there(here):
    async with running(here, TROUBLE, ready=False, **{"class": "Other"}) as process:
        assert await process.over() == 3
        assert "it has no class Other; those that can be served: Trouble" in process.log
    async with running(here, TROUBLE, ready=False, folder=str(here / "nowhere")) as process:
        assert await process.over() == 3
        assert "it shall run in" in process.log


async def test_its_folder_is_where_it_runs_and_what_it_imports_from(here):
    (here / "beside.py").write_text("FACTOR = 3\n")
    (here / "weights.txt").write_text("4")
    code = """
    import pickle
    from pathlib import Path
    from beside import FACTOR

    class Row: pass

    class A:
        def load(self): self.weight = int(Path("weights.txt").read_text())
        def predict(self, batch): return [FACTOR * self.weight * each for each in pickle.loads(pickle.dumps(batch))]
    """
    async with running(here, code) as process:
        assert (await process.predict(1, 2)).json == {"predictions": [12, 24]}


async def test_all_plain_calls_are_in_one_thread_one_at_a_time(here):
    code = """
    import sqlite3, threading, time

    class A:
        def load(self):
            self.db, self.inside = sqlite3.connect(":memory:"), 0
        def once(self):
            self.db.execute("select 1")
            assert self.inside == 0
            self.inside += 1
            time.sleep(0.01)
            self.inside -= 1
        def predict(self, batch):
            self.once()
            return batch
        def chat(self, messages):
            for word in "a b c d".split():
                self.once()
                yield word
        def rerank(self, query, documents):
            self.once()
            return [0.5] * len(documents)
    """
    async with running(here, code) as process:
        chat = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
        rerank = ("/v1/rerank", {"query": "q", "documents": ["a"]})
        answers = await asyncio.gather(
            *(process.ask(*each) for each in [chat, rerank] * 4), *(process.predict(1) for _ in range(4))
        )
        assert [answer.status for answer in answers] == [200] * 12


SLOW = """
import asyncio, time

class Slow:
    def predict(self, batch):
        time.sleep(0.05)
        return [10 * each for each in batch]

    async def chat(self, messages):
        for number in range(20):
            await asyncio.sleep(0.02)
            yield f"{number} "
"""


async def test_on_sigterm_all_that_runs_and_waits_is_answered(here):
    async with running(here, SLOW, batch=2) as process:
        predictions = [await process.send("/v1/models/fraud:predict", {"instances": [n]}) for n in range(16)]
        body = {"messages": [{"role": "user", "content": "count"}], "stream": True}
        streams = [await process.send("/v1/chat/completions", body) for _ in range(4)]
        for stream in streams:
            await stream.until(seen=b"0 ")
        process.terminate()
        for number, exchange in enumerate(predictions):
            assert (await exchange.until()).json == {"predictions": [10 * number]}
        for stream in streams:
            answer = await stream.until()
            assert answer.events[-1] == "[DONE]"
            text = "".join(event["choices"][0]["delta"].get("content", "") for event in answer.events[:-1])
            assert text == "".join(f"{number} " for number in range(20))
        with pytest.raises(OSError):  # noqa: PT011 (refused or reset)
            await process.predict(1)
        assert await process.over() == 0


async def test_requests_are_put_together_while_a_call_runs(here):
    async with running(here, TROUBLE, batch=4) as process:
        gate = await process.send("/v1/models/fraud:predict", {"instances": ["gate"]})
        await process.until("requests_running", 1)
        asked = [await process.send("/v1/models/fraud:predict", {"instances": [n]}) for n in range(8)]
        await process.until("requests_waiting", 8)
        (here / "open").touch()
        assert [(await exchange.until()).json["predictions"] for exchange in asked] == [[n] for n in range(8)]
        await gate.until()
        assert await process.metric("batch_size_count") == 3
        assert await process.metric("batch_size_sum") == 9
        page = (await process.ask("/metrics", method="GET")).body.decode()
        reading = ENGINE.read(page, "fraud")
        assert (reading.running, reading.waiting, reading.cache_usage) == (0, 0, None)


async def test_what_a_client_asked_and_did_not_wait_for_is_not_run(here):
    async with running(here, TROUBLE) as process:
        gate = await process.send("/v1/models/fraud:predict", {"instances": ["gate"]})
        await process.until("requests_running", 1)
        left = await process.send("/v1/models/fraud:predict", {"instances": ["hang"]})
        await process.until("requests_waiting", 1)
        left.close()
        await process.until("requests_waiting", 0)
        (here / "open").touch()
        assert (await gate.until()).status == 200
        assert (await process.predict(1)).json == {"predictions": [1]}


async def test_it_is_asked_with_its_key_but_for_its_health(here):
    async with running(here, TROUBLE) as process:
        for path in ("/health", "/v2/health/live", "/v2/health/ready"):
            assert (await process.ask(path, key="", method="GET")).status == 200
        for path in ("/metrics", "/v2", "/v2/models/fraud", "/v1/models/fraud:predict"):
            assert (await process.ask(path, key="wrong", method="GET")).status == 401
        assert "s3cret" not in process.log


STREAM = """
import asyncio

class Counter:
    async def predict(self, input: int):
        try:
            for number in range(input):
                if number == 13: raise RuntimeError("thirteen")
                yield {"number": number}
                await asyncio.sleep(0.001)
            if input == 0: raise ValueError("nothing to count")
            if input == 100: await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            open(f"closed-{input}", "w").close()
"""
PLAIN_STREAM = STREAM.replace("async def", "def").replace("await asyncio.sleep(0.001)", "").replace("await asyncio.sleep(0)", "")
PLAIN_STREAM = PLAIN_STREAM.replace("await asyncio.Event().wait()", "yield from iter(lambda: __import__('time').sleep(0.01), 1)")


@pytest.mark.parametrize("code", [STREAM, PLAIN_STREAM], ids=["async", "plain"])
async def test_a_generator_streams(here, code):
    async with running(here, code) as process:
        answer = await process.predict(3, stream=True)
        assert answer.events == [{"number": 0}, {"number": 1}, {"number": 2}, "[DONE]"]
        assert answer.headers["content-type"].startswith("text/event-stream")
        accepting = await process.ask("/v1/models/fraud:predict", {"instances": [1]}, "Accept: text/event-stream\r\n")
        assert accepting.events == [{"number": 0}, "[DONE]"]
        assert (await process.predict(2, 1)).json == {"predictions": [[{"number": 0}, {"number": 1}], [{"number": 0}]]}
        before = await process.predict(0, stream=True)
        assert (before.status, before.json["error"]) == (500, "Counter.predict raised ValueError: nothing to count")
        within = await process.predict(20, stream=True)
        assert len(within.events) == 14
        assert within.events[-1]["error"]["message"] == "Counter.predict raised RuntimeError: thirteen"
        assert (await process.predict("x", stream=True)).status == 400
        assert (await process.predict(1, 2, stream=True)).status == 400


@pytest.mark.parametrize("code", [STREAM.replace("13", "-1"), PLAIN_STREAM.replace("13", "-1")], ids=["async", "plain"])
async def test_a_generator_that_nobody_reads_is_closed(here, code):
    async with running(here, code) as process:
        exchange = await process.send("/v1/models/fraud:predict", {"instances": [100], "stream": True})
        await exchange.until(seen=b'{"number":99}')
        exchange.close()
        await process.until("requests_running", 0)
        async with asyncio.timeout(10):
            while not (here / "closed-100").exists():
                await asyncio.sleep(0.01)
        assert await process.metric('requests_total{finish="left"}') == 1
        assert (await process.predict(1)).status == 200


async def test_what_does_not_stream_says_so(here):
    async with running(here, TROUBLE) as process:
        answer = await process.predict(1, stream=True)
        assert (answer.status, answer.json["error"]) == (400, "Trouble.predict does not stream: it is no generator")


TYPED = """
from dataclasses import dataclass
from typing_extensions import TypedDict
from pydantic import BaseModel, Field

class Payment(BaseModel):
    amount: float = Field(ge=0)
    country: str = "SE"

class Verdict(TypedDict):
    fraud: bool
    score: float

class Fraud:
    def predict(self, batch: list[Payment]) -> list[Verdict]:
        if any(each.country == "XX" for each in batch):
            return [{"fraud": "maybe", "score": 1.0} for each in batch]
        return [{"fraud": each.amount > 100, "score": each.amount / 200} for each in batch]
"""


async def test_inputs_and_outputs_are_what_is_declared(here):
    async with running(here, TYPED) as process:
        answer = await process.predict({"amount": 150}, {"amount": "20", "country": "NO"})
        assert answer.json == {"predictions": [{"fraud": True, "score": 0.75}, {"fraud": False, "score": 0.1}]}
        wrong = await process.predict({"amount": 1}, {"amount": -1, "country": 3})
        assert wrong.status == 400
        assert wrong.json["error"] == (
            "instances[1].amount: Input should be greater than or equal to 0; "
            "instances[1].country: Input should be a valid string"
        )
        undeclared = await process.predict({"amount": 1, "country": "XX"})
        assert undeclared.status == 500
        assert undeclared.json["error"].startswith("Fraud.predict returned what it does not declare: output.fraud: ")
        columns = [
            {"name": "amount", "shape": [2], "datatype": "FP32", "data": [150, 20]},
            {"name": "country", "shape": [2], "datatype": "BYTES", "data": ["SE", "NO"]},
        ]
        answer = await process.ask("/v2/models/fraud/infer", {"inputs": columns})
        assert [(each["name"], each["datatype"], each["data"]) for each in answer.json["outputs"]] == [
            ("fraud", "BOOL", [True, False]),
            ("score", "FP64", [0.75, 0.1]),
        ]
        about = (await process.ask("/v2/models/fraud", method="GET")).json
        assert about["inputs"] == [
            {"name": "amount", "datatype": "FP64", "shape": [-1]},
            {"name": "country", "datatype": "BYTES", "shape": [-1]},
        ]
        assert [each["name"] for each in about["outputs"]] == ["fraud", "score"]


ARRAYS = """
import numpy as np
from numpy.typing import NDArray

class Linear:
    def predict(self, batch: NDArray[np.float32]) -> np.ndarray:
        assert batch.dtype == np.float32
        return batch @ np.arange(batch.shape[1], dtype=np.float32)
"""


async def test_arrays_have_the_batch_as_their_first_dimension(here):
    async with running(here, ARRAYS) as process:
        assert (await process.predict([1, 2, 3], [4, 5, 6])).json == {"predictions": [8.0, 17.0]}
        # Of another shape: not put together with the first, and no fault of either.
        answers = await asyncio.gather(*(process.predict([1] * size) for size in (2, 3, 4, 2, 3, 4)))
        assert [answer.json["predictions"] for answer in answers] == [[1.0], [3.0], [6.0]] * 2
        assert (await process.predict([1], [1, 2])).status == 400
        assert (await process.predict(["a"])).status == 400
        blob = struct.pack("<4d", 1, 2, 3, 4)
        tensor = {"name": "x", "shape": [2, 2], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
        head = json.dumps({"id": "7", "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        answer = await process.ask("/v2/models/fraud/infer", head + blob, f"Inference-Header-Content-Length: {len(head)}\r\n")
        size = int(answer.headers["inference-header-content-length"])
        assert json.loads(answer.body[:size]) == {
            "model_name": "fraud",
            "model_version": "1",
            "id": "7",
            "outputs": [{"name": "output", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}],
        }
        assert answer.body[size:] == struct.pack("<2f", 2, 4)


async def test_arrays_by_name(here):
    code = """
    import numpy as np

    class Two:
        def predict(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"sum": batch["a"] + batch["b"], "a": batch["a"]}
    """
    async with running(here, code) as process:
        assert (await process.predict({"a": 1, "b": 2}, {"a": 3, "b": 4})).json == {
            "predictions": [{"sum": 3, "a": 1}, {"sum": 7, "a": 3}]
        }
        inputs = [{"name": name, "shape": [1, 2], "datatype": "INT32", "data": [1, 2]} for name in "ab"]
        answer = await process.ask("/v2/models/fraud/infer", {"inputs": inputs, "outputs": [{"name": "sum"}]})
        assert answer.json["outputs"] == [{"name": "sum", "datatype": "INT32", "shape": [1, 2], "data": [2, 4]}]
        assert (await process.predict({"a": 1}, {"b": 1})).status == 400


X = {"name": "x", "datatype": "INT8"}
NO_REQUESTS = [
    ("/v1/models/fraud:predict", b"{", 400, "The body is not JSON"),
    ("/v1/models/fraud:predict", b"[]", 400, "must be a JSON object"),
    ("/v1/models/fraud:predict", b"{}", 400, '"instances" is missing'),
    ("/v1/models/fraud:predict", b'{"instances": []}', 200, ""),
    ("/v1/models/other:predict", b'{"instances": []}', 404, "There is no model other here; there is fraud."),
    ("/v2/models/other/infer", b"{}", 404, "There is no model other"),
    ("/v2/models/fraud/infer", b"{}", 400, '"inputs" is missing'),
    ("/v2/models/fraud/versions/1/infer", b"{}", 400, '"inputs" is missing'),
    ("/v2/models/fraud/infer", {"inputs": [X | {"shape": [], "data": [1]}]}, 400, "without dimensions"),
    ("/v2/models/fraud/infer", {"inputs": [X | {"shape": [0], "data": []}]}, 400, "here it is 0"),
    ("/v2/nope", b"", 404, "Not Found; Trouble has /health, "),
    ("/health", b"", 405, "Method Not Allowed"),
]


async def test_requests_that_are_none(shared):
    for path, body, status, error in NO_REQUESTS:
        answer = await shared.ask(path, body)
        assert (answer.status, error in str(answer.json.get("error", ""))) == (status, True), (path, body)


@pytest.fixture
async def shared(here):
    async with running(here, TROUBLE) as process:
        yield process


async def test_models_are_told_and_openais_paths_without_a_method_are_not_there(shared):
    assert (await shared.ask("/v1/models", method="GET")).json["data"][0]["id"] == "fraud"
    assert (await shared.ask("/v1/models/fraud", method="GET")).json == {"name": "fraud", "ready": True}
    assert (await shared.ask("/v2/models/fraud/ready", method="GET")).json == {"name": "fraud", "ready": True}
    answer = await shared.ask("/v1/completions", {"prompt": "x"})
    assert answer.status == 404
    assert "Trouble has /health" in answer.json["error"]["message"]


async def test_a_response_of_ours_is_read_by_our_own_reader(shared):
    """Mixed outputs become no tensors, and V1 carries them."""
    tensor = {"name": "x", "shape": [2], "datatype": "BYTES", "data": ["a", "object"]}
    assert (await shared.ask("/v2/models/fraud/infer", {"inputs": [tensor]})).status == 500
    tensor["data"] = ["a", "b"]
    answer = await shared.ask("/v2/models/fraud/infer", {"inputs": [tensor]})
    assert answer.json["outputs"][0]["data"] == ["a", "b"]
    back = tensors.read(json.dumps({"inputs": answer.json["outputs"]}).encode(), None)
    assert np.array_equal(back.inputs["output"], [b"a", b"b"])


async def test_the_end_of_its_stdin_is_its_end_and_ctrl_c_is_not(here):
    async with running(here, TROUBLE) as process:
        process.child.send_signal(2)
        assert (await process.predict(1)).status == 200
        process.child.stdin.close()
        assert await process.over() == 0
