"""What becomes of the models that are served, told at the terminal; and a request to try."""

import asyncio
from collections.abc import Sequence
from time import monotonic

from headrace.plan.base import Plan
from headrace.terminal import Terminal
from headrace.traffic import ModelStatus, Task
from headrace.units import show_duration


class Announcer:
    """Tells the user what becomes of the models; `failed` when none could be started, `settled` when none is on its way."""

    def __init__(self, terminal: Terminal, planned: Plan, address: str, remark: str) -> None:
        self.terminal = terminal
        self.failed, self.settled = asyncio.Event(), asyncio.Event()
        self.listens = True
        """Whether clients come in already; until then they are not invited."""
        self._tasks: dict[str, Task | None] = {model.name: model.task for model in planned.models}
        self.address = address
        self._remark = remark
        self._began = monotonic()
        self._statuses: dict[str, ModelStatus] = {}
        self._welcomed = False

    def heard(self, statuses: Sequence[ModelStatus]) -> None:
        """The statuses after a look of the control loop."""
        for status in statuses:
            old = self._statuses.get(status.model)
            self._statuses[status.model] = status
            if old is None or old.phase != status.phase or self._failing(status, old):
                self._changed(status, old)
        phases = {status.phase for status in statuses}
        on_its_way = any(status.phase == "loading" and "failed" not in status.reason for status in statuses)
        if "loading" not in phases:
            self.settled.set()
        if self.listens and not self._welcomed and phases & {"ready", "asleep"} and not on_its_way:
            self._welcomed = True
            self.terminal.say(self._welcome())
        if not self._welcomed and phases == {"failed"}:
            self.failed.set()

    def reasons(self) -> str:
        """Why each model failed."""
        return "\n".join(f"{name}: {status.reason}" for name, status in self._statuses.items())

    def _failing(self, status: ModelStatus, old: ModelStatus | None) -> bool:
        """A replica failed and will be started again: worth a line, for it may be all that the user ever sees."""
        return status.phase != "failed" and "failed" in status.reason and (old is None or old.reason != status.reason)

    def _changed(self, status: ModelStatus, old: ModelStatus | None) -> None:
        if status.phase == "asleep" and old is None:
            return  # the plan has said it
        if status.phase == "ready" and not self._welcomed:
            self.terminal.say(f"{status.model} is ready after {show_duration(monotonic() - self._began)}.")
        elif status.phase != "loading" or old is not None:
            self.terminal.say(f"{status.model} is {status.phase}: {status.reason}")

    def _welcome(self) -> str:
        name, task = next(iter(self._tasks.items()))
        return f"""
Listening on {self.address}/v1 (OpenAI's API). Try:{self._remark and " " + self._remark}

  {_example(self.address, name, task)}

Ctrl-C drains and stops; headrace status and headrace logs {name} tell more."""


def _example(address: str, name: str, task: Task | None) -> str:
    if task == "infer":  # every model of tensors says what it takes; not every one takes the same, or V1
        return f"curl {address}/v2/models/{name}    # what it takes and gives"
    path, body = {
        "embed": ("/v1/embeddings", f'{{"model": "{name}", "input": "Explain what a queue is."}}'),
        "rerank": ("/v1/rerank", f'{{"model": "{name}", "query": "queue", "documents": ["a line of people", "a river"]}}'),
    }.get(task or "generate", ("/v1/chat/completions", _chat(name)))
    return f"curl {address}{path} -H 'Content-Type: application/json' -d '{body}'"


def _chat(name: str) -> str:
    message = '{"role": "user", "content": "Explain what a queue is, briefly."}'
    return f'{{"model": "{name}", "messages": [{message}], "max_tokens": 120}}'
