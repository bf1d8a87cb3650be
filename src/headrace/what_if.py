"""The program that answers the dashboard's what-if page: questions in, answers out, a line of JSON each.

A process of its own, so that planning, which takes a second or more of a core, never holds up the gateway.
"""

import os
import sys
from collections.abc import Callable

import msgspec

from headrace.dashboard import answers
from headrace.dashboard.answers import Answer
from headrace.dashboard.worker import Task
from headrace.elsewhere import Question, intents_of, preset, weighed
from headrace.errors import HeadraceError, PlanError
from headrace.learned import knowledge
from headrace.plan.fleet import Member
from headrace.plan.intent import wanted
from headrace.plan.plan import plan
from headrace.planning import facts_of, known_of, machines_of
from headrace.prepare import cache_of, check_installed, here, this_machine
from headrace.spec.load import loads
from headrace.spec.machine import MachineSpec
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.weights.source import parse

_NICE = 5
"""Engines and the gateway come first."""


def main() -> None:
    """Answer until standard input ends. Whatever else is printed on the way goes to standard error."""
    os.nice(_NICE)
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin.buffer:
        out.write(msgspec.json.encode(answered(line, answer)).decode() + "\n")
        out.flush()


def answered(line: bytes, work: Callable[[Task], Answer]) -> Answer:
    """What `work` gives for a task, or why it gives nothing."""
    try:
        return work(msgspec.json.decode(line, type=Task))
    except HeadraceError as error:
        return answers.wrong(str(error))
    except Exception as error:  # a bug of ours must not end the page
        return answers.wrong(f"A bug of ours: {error!r}")


def answer(task: Task) -> Answer:
    """The plan for a task, as `headrace plan` would make it. Raises HeadraceError."""
    spec = _spec(task)
    terminal = Terminal()
    if task.machine is None:
        return _here(spec, task, terminal)
    question = Question(machine=task.machine, wanted=task.wanted, offline=task.offline)
    machines, intents = machines_of(spec, question), intents_of(spec, question)
    ((name, model),) = spec.models.items()
    facts = facts_of(spec, ("safetensors", "gguf"), terminal, offline=task.offline)[name]
    considered, best = weighed(Member(facts, intents[name], wanted(model)), machines, knowledge(cache_of(spec).root))
    return answers.on_gpus(considered, best, facts, intents[name], preset(spec, name), model.engine_name)


def _here(spec: Spec, task: Task, terminal: Terminal) -> Answer:
    machine = this_machine(spec)
    engines_here = here(spec, machine)
    check_installed(spec, engines_here)
    facts, others = known_of(spec, ("gguf", "safetensors"), terminal, offline=task.offline)
    places = {name: str(model.source) for name, model in spec.models.items()}
    try:
        return answers.here(plan(spec, facts, places, machine, engines_here, others), task.usd_per_hour)
    except PlanError as error:
        return Answer("short", "It does not fit on this machine", str(error))


def _spec(task: Task) -> Spec:
    spec = loads(task.text, "plan.yaml", parse)
    limit = MachineSpec(memory=task.memory) if task.memory is not None else "auto"
    return spec.model_copy(update={"weights": spec.weights.model_copy(update={"cache": task.cache}), "machine": limit})


if __name__ == "__main__":
    main()
