"""The real tritonserver under our runner: what it serves, how it recovers, drains and ends. See docs/triton.md."""

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from triton_process import INSTALL, Runner, at_once, interpreter, made

from headrace.engines.base import Placement
from headrace.engines.triton import ENGINE
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.skipif(interpreter() is None, reason=f"no environment with Triton: {INSTALL}; HEADRACE_TRITON=FOLDER"),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with small models of every kind."""
    return made(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def linear(models):
    """A Runner of `linear.onnx` for tests that only ask."""
    runner = Runner.started(interpreter(), "onnx", models / "linear.onnx").ready()
    yield runner
    runner.close()


@pytest.fixture
def start(models):
    """`start(kind, file, **spec)`: a Runner, ended after the test."""
    runners = []

    def started(kind, file, python=None, **more):
        runners.append(Runner.started(python or interpreter(), kind, models / file, **more))
        return runners[-1]

    yield started
    for runner in runners:
        runner.close()


# ---- what it serves


def test_onnx_is_described_and_computed(linear):
    _, about = linear.request("GET", "/v2/models/m")
    assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert about["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "best", "datatype": "INT64", "shape": [-1, 1]},
    ]
    assert linear.infer(x=("FP32", [2, 4], [1, 0, 0, 0, 0, 0, 2, 2])) == (200, {"y": [1, 10, 14, 12], "best": [1, 0]})


def test_requests_at_the_same_time_are_computed_together_and_answered_apart(start):
    runner = start("onnx", "linear.onnx", delay_seconds=0.2).ready()
    asked = [lambda n=n: runner.infer(x=("FP32", [1, 4], [n, 0, 0, 0])) for n in range(24)]
    assert at_once(*asked) == [(200, {"y": [n, 10], "best": [int(n < 10)]}) for n in range(24)]
    _, stats = runner.request("GET", "/v2/models/m/stats")
    (model,) = stats["model_stats"]
    assert model["inference_count"] == 24
    assert model["execution_count"] < 12


@pytest.mark.parametrize(
    ("file", "tensors", "outputs"),
    [
        ("fixed.onnx", {"x": ("FP32", [1, 4], [0, 0, 0, 1])}, {"y": [4, 11], "best": [1]}),  # no batch: one by one
        ("words.onnx", {"x": ("BYTES", [2, 1], ["naïve", ""])}, {"y": ["naïve", ""]}),
        ("mapped.onnx", {"x": ("FP32", [1, 2], [1, 2])}, {"y": [1, 2]}),
        ("found.onnx", {"x": ("FP32", [4], [0, 5, 0, 7])}, {"y": [1, 3]}),  # its rows are not those of its input
    ],
)
def test_onnx_of_many_shapes(start, file, tensors, outputs):
    runner = start("onnx", file).ready()
    assert runner.infer(**tensors) == (200, outputs)
    left_out = [line.strip() for line in runner.lines if "is left out" in line]
    assert left_out == (['output "z" is left out: it is a seq(map(int64,tensor(float)))'] if file == "mapped.onnx" else [])


EXPORT = """
import sys, torch
class Model(torch.nn.Module):
    def forward(self, x, scale):
        y = x * scale
        return y, y.argmax(1)
batch = torch.export.Dim("batch")
given = (torch.zeros(2, 3), torch.ones(2, 1))
torch.export.save(torch.export.export(Model(), given, dynamic_shapes=({0: batch}, {0: batch})), sys.argv[1])
"""


def test_pytorch(start, tmp_path):
    if subprocess.run([interpreter(), "-c", "import torch"], capture_output=True, timeout=120).returncode:
        pytest.skip("Triton's environment has no torch, which is large: pip install torch into it")
    subprocess.run([interpreter(), "-c", EXPORT, str(tmp_path / "model.pt2")], check=True, timeout=120)
    runner = start("torch", tmp_path / "model.pt2").ready()
    answer = runner.infer(x=("FP32", [2, 3], [1, 2, 3, 6, 5, 4]), scale=("FP32", [2, 1], [2, 1]))
    assert answer == (200, {"output_0": [2, 4, 6, 6, 5, 4], "output_1": [2, 0]})


@pytest.mark.parametrize(
    ("file", "more", "outputs"),
    [
        ("forest.skops", {}, {"predict": [1, 0], "predict_proba": [0.0, 1.0, 1.0, 0.0]}),
        ("forest.joblib", {"pickle": True}, {"predict": [1, 0], "predict_proba": [0.0, 1.0, 1.0, 0.0]}),
        ("line.skops", {}, {"predict": pytest.approx([6.0, 0.0, -6.0, 0.0])}),
    ],
)
def test_scikit_learn(start, file, more, outputs):
    runner = start("sklearn", file, **more).ready()
    assert runner.infer(input=("FP64", [2, 4], [2, 2, 0, 0, -2, -2, 0, 0])) == (200, outputs)


def test_labels_that_are_words(start):
    status, outputs = start("sklearn", "words.skops").ready().infer(input=("FP64", [1, 4], [2, 2, 0, 0]))
    assert (status, outputs["predict"]) == (200, ["yes"])


def test_a_class_of_ones_own(start):
    runner = start("python", "fraud.py").ready()
    assert runner.infer(amount=("FP32", [2, 1], [50, 200]), country=("BYTES", [2, 1], ["de", "fr"])) == (200, {"score": [0.5, 2]})


def test_a_bad_request_fails_alone(start):
    """It shares an execution with good ones: the batch waits until all are there."""
    runner = start("python", "fraud.py", delay_seconds=0.3).ready()
    amounts = (10, -1, 30)
    asked = [lambda n=n: runner.infer(amount=("FP32", [1, 1], [n]), country=("BYTES", [1, 1], ["de"])) for n in amounts]
    good, bad, other = at_once(*asked)
    assert good == (200, {"score": [0.1]})
    assert other == (200, {"score": pytest.approx([0.3])})
    assert bad[0] == 500
    assert "ValueError: negative amount" in bad[1]
    runner.said("Traceback")


def test_a_full_queue_refuses(start):
    runner = start("python", "fraud.py", batch=1, queue=2).ready()
    asked = [lambda: runner.infer(amount=("FP32", [1, 1], [1]), country=("BYTES", [1, 1], ["slow"]))] * 8
    answers = at_once(*asked)
    assert {status for status, _ in answers} == {200, 503}
    assert any("Exceeds maximum queue size" in answer for status, answer in answers if status == 503)


def test_good_models_of_a_repository_serve_beside_broken_ones(start, models):
    before = sorted(models.rglob("*"))
    runner = start("repository", "repository").ready()
    for name in ("good", "other"):
        assert runner.infer(name, x=("FP32", [1, 1], [7])) == (200, {"y": [7]})
    assert runner.request("GET", "/v2/health/ready")[0] == 200
    said = runner.said("not served: ")
    assert "broken (RuntimeError: weights are missing)" in said
    assert "foreign (unable to find backend library for backend 'onnxruntime'" in said
    assert sorted(models.rglob("*")) == before, "something was written into the user's folder"


# ---- what it refuses


@pytest.mark.parametrize(
    ("kind", "file", "more", "cause"),
    [
        ("onnx", "garbage.onnx", {}, "Protobuf parsing failed"),
        ("onnx", "nothing.onnx", {}, "there is no such file"),
        ("onnx", "linear.onnx", {"name": "a/b"}, "a/b cannot be the name of one"),
        ("sklearn", "forest.joblib", {}, "set `pickle: true` if you trust it"),
        ("sklearn", "garbage.onnx", {"pickle": True}, "garbage.onnx: "),
        ("torch", "garbage.onnx", {}, "garbage.onnx: "),
        ("python", "two.py", {}, "there is 2 (Fraud, Other); say which in `class`"),
        ("python", "fraud.py", {"class": "Nobody"}, "there is no class Nobody"),
        ("python", "undeclared.py", {}, 'must say its inputs in types and sizes, as inputs = {"x": ("FP32", [4])}'),
        ("python", "raises.py", {}, "it cannot be imported: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("repository", "linear.onnx", {}, "there is no model in it: a repository is a folder"),
        ("gguf", "garbage.onnx", {}, "llama.cpp cannot load it"),
    ],
)
def test_what_cannot_be_served_is_exit_code_3_with_the_cause_in_the_last_line(start, kind, file, more, cause):
    code, last = start(kind, file, **more).ended()
    assert code == 3
    assert last.startswith("cannot load /")
    assert cause in last


def test_a_repository_of_broken_models_is_exit_code_3(start, models, tmp_path):
    (tmp_path / "broken").symlink_to(models / "repository" / "broken")
    code, last = start("repository", tmp_path).ended()
    assert (code, last) == (3, f"cannot load {tmp_path}: no model could be loaded: broken (RuntimeError: weights are missing)")


NUMPY2 = """
__version__ = "2.4.0"
class ndarray:
    __class_getitem__ = classmethod(lambda cls, item: cls)
dtype = ndarray
"""


@pytest.fixture(scope="session")
def numpy2(tmp_path_factory) -> str:
    """The interpreter of an environment that sees Triton's packages, and before them a numpy that says it is 2."""
    folder = tmp_path_factory.mktemp("numpy2")
    subprocess.run([interpreter(), "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "numpy").mkdir()
    (site / "numpy" / "__init__.py").write_text(NUMPY2)
    theirs = subprocess.check_output([interpreter(), "-c", "import pytriton; print(pytriton.__path__[0])"], text=True).strip()
    (site / "pytriton").symlink_to(theirs)
    return str(folder / "bin" / "python")


def test_numpy_2_is_refused_because_every_answer_would_be_empty(start, numpy2):
    code, last = start("gguf", "linear.onnx", python=numpy2).ended()
    assert code == 3
    assert "has numpy 2.4.0, and Triton's python backend needs numpy<2: `headrace engines install triton`" in last


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_an_environment_that_is_none_is_named_with_the_command_that_makes_one(start, python):
    code, last = start("onnx", "linear.onnx", python=python).ended()
    assert code == 3
    assert python in last


def test_a_port_that_is_taken_is_the_cause(start, linear):
    code, last = start("onnx", "linear.onnx", address=f"http://127.0.0.1:{linear.port}").ended()
    assert code == 1
    assert "already in use" in last
    assert linear.infer(x=("FP32", [1, 4], [1, 1, 1, 1]))[0] == 200


def test_nobody_can_load_models_or_map_memory(linear):
    """Whoever may load a model may run code: a page in a browser can send a POST to loopback."""
    for path in (
        "repository/models/m/load",
        "repository/models/m/unload",
        "repository/index",
        "systemsharedmemory/region/x/register",
    ):
        assert linear.request("POST", f"/v2/{path}", {})[0] == 403
    assert linear.request("POST", "/v2/logging", {"log_info": False})[0] == 403
    assert linear.folder().stat().st_mode & 0o077 == 0, "others can reach the control socket"
    listening = {(each.laddr.ip, each.laddr.port) for each in linear.server.net_connections("tcp") if each.status == "LISTEN"}
    assert listening == {("127.0.0.1", linear.port), ("127.0.0.1", linear.port + 1)}


# ---- life and death


@pytest.mark.parametrize("asked_since", [False, True])
def test_a_model_whose_process_is_killed_is_back_within_seconds(start, asked_since):
    """Once a request has reached a dead process, Triton never finishes to unload the model."""
    runner = start("repository", "repository").ready()
    (stub,) = runner.stubs("good")
    stub.kill()
    if asked_since:
        assert "is not healthy" in str(runner.infer("good", x=("FP32", [1, 1], [1])))
    assert runner.infer("other", x=("FP32", [1, 1], [1]))[0] == 200  # unmoved
    runner.said("model good is back")
    assert runner.infer("good", x=("FP32", [1, 1], [1])) == (200, {"y": [1]})
    runner.process.terminate()
    assert runner.ended(20)[0] == 0


def test_a_model_that_dies_again_and_again_ends_the_server_with_the_cause(start):
    runner = start("onnx", "linear.onnx").ready()
    for _ in range(4):
        dead = runner.until(runner.stubs, "a process")[0]
        backs = sum(line.startswith("model m is back") for line in runner.lines)
        dead.kill()
        runner.until(
            lambda n=backs: (
                runner.process.poll() is not None or sum(line.startswith("model m is back") for line in runner.lines) > n
            ),
            "back, or given up",
        )
    code, last = runner.ended()
    assert code == 1
    assert last.startswith("the process of model m died 4 times within ")


def gone(*processes) -> bool:
    return all(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in processes)


def test_when_tritonserver_dies_so_does_the_runner_with_the_cause(start):
    runner = start("onnx", "linear.onnx").ready()
    folder, stubs = runner.folder(), runner.stubs()
    runner.server.kill()
    assert runner.ended() == (1, "tritonserver was killed by SIGKILL")
    runner.until(lambda: gone(*stubs), "end of the models' processes")
    assert left_behind(folder) == []


def left_behind(folder: Path) -> list[Path]:
    return [*folder.parent.glob(folder.name), *Path("/dev/shm").glob(f"{folder.name}*")]


@pytest.mark.parametrize("whom", ["the runner", "its group"])
def test_sigterm_answers_what_is_in_flight_although_connections_idle(start, whom):
    """By itself tritonserver waits for idle connections until its time-out. Headrace signals the whole group."""
    runner = start("python", "fraud.py", batch=1).ready()
    folder = runner.folder()
    idle = http.client.HTTPConnection("127.0.0.1", runner.port, timeout=30)
    idle.request("GET", "/v2/health/ready")
    idle.getresponse().read()
    answers = []

    def ask():
        answers.append(runner.infer(amount=("FP32", [1, 1], [50]), country=("BYTES", [1, 1], ["slow"])))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    runner.until(lambda: received(runner) >= 15, "all of them there; the one that is computed is in no count")
    if whom == "the runner":
        runner.process.terminate()
    else:
        os.killpg(runner.process.pid, signal.SIGTERM)
    runner.said("Signal (15) received")
    runner.until(lambda: refused(runner), "closed doors")
    assert runner.ended()[0] == 0
    for thread in threads:
        thread.join()
    assert answers == [(200, {"score": [0.5]})] * 16
    assert left_behind(folder) == []
    idle.close()


def received(runner) -> int:
    """Requests that wait or were answered."""
    page = runner.request("GET", "/metrics", port=runner.port + 1)[1]
    names = ("nv_inference_pending_request_count", "nv_inference_request_success")
    return sum(int(line.split()[-1]) for line in page.splitlines() if line.startswith(names))


def refused(runner) -> bool:
    try:
        runner.request("GET", "/v2/health/ready")
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_ctrl_c_is_not_for_it(linear):
    linear.process.send_signal(signal.SIGINT)
    assert linear.infer(x=("FP32", [1, 4], [1, 1, 1, 1]))[0] == 200


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_the_end_of_its_stdin_is_its_end(start, moment):
    runner = start("onnx", "linear.onnx")
    if moment == "ready":
        runner.ready()
    runner.process.stdin.close()
    assert runner.ended()[0] == 0


def test_sigterm_while_it_loads_ends_it(start):
    runner = start("sklearn", "forest.skops")
    runner.process.terminate()
    assert runner.process.wait(timeout=30) in (0, -signal.SIGTERM)  # before it could say anything, the signal's own way


def test_nothing_survives_the_killed_runner_and_the_next_one_cleans_up(start):
    runner = start("onnx", "linear.onnx").ready()
    folder, family = runner.folder(), [runner.server, *runner.server.children()]
    runner.process.kill()
    runner.until(lambda: gone(*family), "end of the server and of the models' processes", seconds=20)
    assert folder.exists()
    second = start("onnx", "linear.onnx").ready()
    assert left_behind(folder) == []
    assert second.infer(x=("FP32", [1, 4], [1, 1, 1, 1]))[0] == 200


def test_two_beside_each_other_leave_each_other_alone(start, linear):
    other = start("onnx", "linear.onnx").ready()
    other.process.terminate()
    assert other.ended()[0] == 0
    assert linear.infer(x=("FP32", [1, 4], [1, 1, 1, 1]))[0] == 200


def test_without_a_spec_it_says_how_to_be_called():
    done = subprocess.run([sys.executable, "-m", "headrace.runners.triton"], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")


# ---- what the plan and the gateway rely on


@pytest.mark.parametrize(("kind", "file"), [("onnx", "linear.onnx"), ("sklearn", "forest.skops"), ("python", "fraud.py")])
def test_it_takes_no_more_memory_than_the_plan_says(start, kind, file):
    runner = start(kind, file).ready()
    rows = {"onnx": {"x": ("FP32", [8, 4], [1] * 32)}, "sklearn": {"input": ("FP64", [8, 4], [1] * 32)}}.get(
        kind, {"amount": ("FP32", [8, 1], [1] * 8), "country": ("BYTES", [8, 1], ["de"] * 8)}
    )
    assert all(status == 200 for status, _ in at_once(*[lambda: runner.infer(**rows)] * 32))
    used = sum(each.memory_info().rss for each in [psutil.Process(runner.process.pid), runner.server, *runner.stubs()])
    placement = Placement("m", "triton", "infer", "", 0, 8, 1, 0, {"kind": kind})
    assert used <= ENGINE.overhead(None, placement) <= used + 120_000_000


async def test_headrace_starts_it_asks_it_and_stops_it(models, tmp_path):
    placement = Placement("m", "triton", "infer", str(models / "linear.onnx"), 0, 8, 1, 0, {"kind": "onnx"}, interpreter())
    target = LocalTarget({"triton": ENGINE}, tmp_path)
    try:
        await target.apply([Start("m-1", "m", placement, 8, "a test wants it")])
        async with asyncio.timeout(60):
            while (replica := (await target.observe())[0]).state is not State.READY or replica.reading is None:
                assert replica.state is not State.FAILED, replica.reason
                await target.changed(0.05)
        assert (replica.endpoint.speaks, replica.endpoint.model_there, replica.reading.waiting) == ("v2", "m", 0)
        family = psutil.Process(replica.pid).children(recursive=True)
    finally:
        await target.close()
    assert gone(*family)
