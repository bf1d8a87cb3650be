"""Code of the user's own as an engine: how it is launched, and what its text says that it can do."""

import json
from dataclasses import replace

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.custom import ENGINE
from headrace.engines.custom_code import CodeError, serving

CLASS = Placement("fraud", "custom", "infer", "/code/fraud.py", 0, 16, 2, 100_000_000, {"batch": 4})
COMMAND = {"command": ("python", "/code/server.py", "--port", "{port}", "--set={a}"), "speaks": "http", "folder": "/code"}


def test_it_is_found():
    assert engines()["custom"] is ENGINE


def test_a_class_is_launched_with_one_json_argument():
    launch = ENGINE.launch(CLASS, "unix:/run/fraud.sock")
    assert launch.argv[:4] == ("python", "-P", "-m", "headrace.runners.custom")
    assert json.loads(launch.argv[4]) == {
        "address": "unix:/run/fraud.sock",
        "batch": 4,
        "class": "",
        "delay_seconds": 0.005,
        "folder": "",
        "limit_seconds": 60.0,
        "model": "/code/fraud.py",
        "name": "fraud",
        "task": "infer",
    }
    assert launch.key_variable == "ENGINE_KEY"
    assert launch.environment == {"OMP_NUM_THREADS": "2"}
    assert ENGINE.launch(replace(CLASS, python="/env/bin/python"), "unix:/x").argv[0] == "/env/bin/python"


def test_a_command_is_launched_as_it_is():
    launch = ENGINE.launch(replace(CLASS, options=COMMAND), "http://127.0.0.1:4711")
    assert launch.argv == ("python", "/code/server.py", "--port", "4711", "--set={a}")
    assert (launch.folder, launch.key_variable) == ("/code", "ENGINE_KEY")
    elsewhere = replace(CLASS, options={"command": ("python", "python", "{host}")}, python="/env/bin/python")
    assert ENGINE.launch(elsewhere, "http://127.0.0.1:4711").argv == ("/env/bin/python", "python", "127.0.0.1")


def test_a_command_with_a_place_for_it_listens_on_a_socket():
    command = replace(CLASS, options={"command": ("uvicorn", "server:app", "--uds", "{socket}")})
    assert ENGINE.sockets(command)
    assert ENGINE.launch(command, "unix:/run/x.sock").argv[-1] == "/run/x.sock"
    assert not ENGINE.sockets(replace(CLASS, options=COMMAND))
    assert ENGINE.sockets(CLASS)


@pytest.mark.parametrize(
    ("task", "options", "speaks"),
    [
        ("infer", {}, "v2"),
        ("generate", {}, "openai"),
        ("embed", {}, "openai"),
        ("rerank", {}, "openai"),
        ("infer", COMMAND, "http"),
    ],
)
def test_what_it_speaks(task, options, speaks):
    assert ENGINE.speaks(replace(CLASS, task=task, options=options)) == speaks


def test_it_refuses_nothing_and_asks_for_what_its_server_takes():
    assert ENGINE.refuse(None, "infer") is None
    assert 56_000_000 <= ENGINE.overhead(None, CLASS) < 80_000_000
    assert ENGINE.overhead(None, replace(CLASS, options=COMMAND)) == 0


def test_a_page_of_somebody_elses_says_nothing_about_load():
    assert ENGINE.read("http_requests_total 12\n", "fraud") == Reading()


ONE = "class Fraud:\n    def load(self): ...\n    def predict(self, batch): ...\n"


@pytest.mark.parametrize(
    ("text", "wanted", "name", "tasks"),
    [
        (ONE, "", "Fraud", ("infer",)),
        (ONE, "Fraud", "Fraud", ("infer",)),
        (
            "class A:\n    async def chat(self, messages): ...\n    def predict(self, batch): ...\n",
            "",
            "A",
            ("generate", "infer"),
        ),
        ("class A:\n    def rerank(self, q, d): ...\n    def embed(self, t): ...\n", "", "A", ("embed", "rerank")),
        (ONE + "class Other:\n    def run(self): ...\n", "", "Fraud", ("infer",)),  # one that cannot be served
        (ONE + "class _Hidden:\n    def predict(self, batch): ...\n", "", "Fraud", ("infer",)),
        (ONE + "class Better(Fraud):\n    def embed(self, texts): ...\n", "", "Better", ("embed", "infer")),
        (ONE + "class Better(Fraud): ...\n", "Fraud", "Fraud", ("infer",)),  # named, though another is made from it
        ("class A:\n    predict = make()\n", "", "A", ("infer",)),
        ("from lib import Base\nclass A(Base): ...\n", "", "A", ("generate", "embed", "rerank", "infer")),  # may have any
        ("from lib import Fraud\n", "Fraud", "Fraud", ("generate", "embed", "rerank", "infer")),
        ("Fraud = make()\n", "Fraud", "Fraud", ("generate", "embed", "rerank", "infer")),
        ("import abc\nclass A(abc.ABC):\n    def predict(self, batch): ...\n", "", "A", ("infer",)),
    ],
)
def test_what_a_class_can_do_is_in_its_text(text, wanted, name, tasks):
    found = serving(text, wanted)
    assert (found.name, found.tasks) == (name, tasks)


@pytest.mark.parametrize(
    ("text", "wanted", "reason", "line"),
    [
        ("x = 1\nclass A\n", "", "it is no Python: expected ':'", 2),
        ("\0", "", "it is no Python", None),
        ("def predict(batch): ...\n", "", "no class in it has one of the methods chat, embed, rerank, predict", None),
        ("class A:\n    def run(self): ...\n", "", "no class in it", None),
        (ONE + ONE.replace("Fraud", "Spam"), "", "several classes can be served: Fraud, Spam; name one", None),
        (ONE, "Spam", "it has no class Spam; its classes are Fraud", None),
        ("class A:\n    def run(self): ...\n", "A", "its class A has none of the methods", None),
    ],
)
def test_what_cannot_be_served_is_said(text, wanted, reason, line):
    with pytest.raises(CodeError) as refused:
        serving(text, wanted)
    assert reason in str(refused.value)
    assert refused.value.line == line


def test_nothing_is_run():
    assert serving(ONE + "raise SystemExit\n").name == "Fraud"
