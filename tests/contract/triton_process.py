"""The runner of Triton as a process, requests to it, and small models for it, made in its own environment."""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_writer
import psutil

from headrace.engines.triton import ENGINE
from headrace.targets.addresses import free_port

SPEC = {
    "name": "m",
    "batch": 8,
    "delay_seconds": 0.002,
    "queue": 64,
    "instances": 1,
    "threads": 1,
    "context": 256,
    "slots": 2,
}

INSTALL = f"python -m venv FOLDER && FOLDER/bin/pip install {' '.join(repr(each) for each in ENGINE.installation.requirements)}"


def interpreter() -> str | None:
    """The environment's interpreter: that of the folder in HEADRACE_TRITON, or of the one that `headrace engines` makes."""
    folder = os.environ.get("HEADRACE_TRITON") or Path.home() / ".cache" / "headrace" / "environments" / "triton"
    python = Path(folder) / "bin" / "python"
    return str(python) if python.exists() else None


@dataclass
class Runner:
    """A running `headrace.runners.triton`, its output read as it comes."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    @classmethod
    def started(cls, python: str, kind: str, model: Any, **more: Any) -> "Runner":
        port = free_port(3)
        spec = SPEC | {"kind": kind, "model": str(model), "python": python, "address": f"http://127.0.0.1:{port}"} | more
        argv = [sys.executable, "-P", "-m", "headrace.runners.triton", json.dumps(spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        runner = cls(subprocess.Popen(argv, start_new_session=True, **pipes), port)
        runner.reader = threading.Thread(target=lambda: runner.lines.extend(iter(runner.process.stdout.readline, "")))
        runner.reader.start()
        return runner

    def until(self, wanted, what: str, seconds: float = 60) -> Any:
        """What `wanted()` gives once that is true."""
        end = time.monotonic() + seconds
        while not (found := wanted()):
            assert time.monotonic() < end, f"not seen: {what}\n{''.join(self.lines)}"
            time.sleep(0.02)
        return found

    def said(self, start: str) -> str:
        return self.until(lambda: next((line for line in self.lines if line.startswith(start)), None), start)

    def ready(self) -> "Runner":
        self.until(lambda: self.process.poll() is not None or any(line.startswith("serving ") for line in self.lines), "serving")
        assert self.process.poll() is None, "".join(self.lines)
        return self

    def ended(self, seconds: float = 60) -> tuple[int, str]:
        """(the exit code, the last line)."""
        code = self.process.wait(timeout=seconds)
        self.reader.join(timeout=10)
        return code, self.lines[-1].strip() if self.lines else ""

    def request(self, method: str, path: str, body: Any = None, port: int | None = None) -> tuple[int, Any]:
        """(status, JSON or text)."""
        with closing(http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def infer(self, model: str = "m", **tensors: Any) -> tuple[int, Any]:
        """(status, outputs by name or the error); `tensors` are (datatype, shape, data)."""
        inputs = [dict(zip(("name", "datatype", "shape", "data"), (name, *each), strict=True)) for name, each in tensors.items()]
        status, answer = self.request("POST", f"/v2/models/{model}/infer", {"inputs": inputs})
        return status, {each["name"]: each["data"] for each in answer["outputs"]} if status == 200 else answer["error"]

    @property
    def server(self) -> psutil.Process:
        return next(each for each in psutil.Process(self.process.pid).children() if "tritonserver" in each.name())

    def stubs(self, model: str = "m") -> list[psutil.Process]:
        """The living processes of a model."""
        found = []
        for each in self.server.children():
            with suppress(psutil.Error):
                found += [each] if f"/{model}/" in " ".join(each.cmdline()) else []
        return found

    def folder(self) -> Path:
        argv = self.server.cmdline()
        return Path(next(each for each in argv if each.startswith("--backend-directory=")).partition("=")[2]).parent

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(timeout=10)
        self.process.stdin.close()
        self.process.stdout.close()


def at_once(*calls) -> list[Any]:
    """What each call gives, all made at the same time."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))

    return asyncio.run(all_of_them())


MAKE = """
import sys, joblib, numpy, skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

folder = sys.argv[1]
x = numpy.random.default_rng(0).normal(size=(200, 4))
y = (x[:, 0] + x[:, 1] > 0).astype(int)
forest = RandomForestClassifier(10, random_state=0).fit(x, y)
skops.io.dump(forest, f"{folder}/forest.skops")
joblib.dump(forest, f"{folder}/forest.joblib")
skops.io.dump(LogisticRegression().fit(x, numpy.where(y, "yes", "no")), f"{folder}/words.skops")
skops.io.dump(LinearRegression().fit(x, x @ [[1, 0], [2, 0], [3, 0], [4, 1]]), f"{folder}/line.skops")
"""
"""Run in the environment of Triton, which has scikit-learn."""

FRAUD = """
import time
class Fraud:
    inputs = {"amount": ("FP32", [1]), "country": ("BYTES", [1])}
    outputs = {"score": ("FP64", [1])}
    def load(self):
        self.limit = 100.0
    def predict(self, batch):
        if any(row["amount"] < 0 for row in batch):
            raise ValueError("negative amount")
        time.sleep(0.4 if any(row["country"] == "slow" for row in batch) else 0)
        return [row["amount"] / self.limit for row in batch]
"""

CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { kind: KIND_CPU count: 1 }
"""

ECHO = """
import triton_python_backend_utils as backend
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(backend.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]
    def answer(self, x):
        return backend.InferenceResponse([backend.Tensor("y", x)])
"""

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("weights are missing")
    def execute(self, requests):
        return []
"""


def made(folder: Path) -> Path:
    """`folder` with small models of every kind in it."""
    subprocess.run([interpreter(), "-c", MAKE, str(folder)], check=True, timeout=120)
    for name in ("linear", "mapped", "words", "found"):
        (folder / f"{name}.onnx").write_bytes(getattr(onnx_writer, name)())
    (folder / "fixed.onnx").write_bytes(onnx_writer.linear(batch=1))
    (folder / "garbage.onnx").write_bytes(b"this is no model" * 100)
    (folder / "fraud.py").write_text(FRAUD)
    (folder / "two.py").write_text(FRAUD + FRAUD.replace("Fraud", "Other"))
    (folder / "undeclared.py").write_text("class Model:\n    def predict(self, batch):\n        return batch\n")
    (folder / "raises.py").write_text("import nothing_like_it\n")
    for name, config, code in (("good", CONFIG, ECHO), ("other", CONFIG, ECHO), ("broken", CONFIG, BROKEN)):
        (folder / "repository" / name / "1").mkdir(parents=True)
        (folder / "repository" / name / "config.pbtxt").write_text(config)
        (folder / "repository" / name / "1" / "model.py").write_text(code)
    (folder / "repository" / "foreign" / "1").mkdir(parents=True)
    (folder / "repository" / "foreign" / "config.pbtxt").write_text(CONFIG.replace('"python"', '"onnxruntime"'))
    (folder / "repository" / "README.md").write_text("no model")
    return folder
