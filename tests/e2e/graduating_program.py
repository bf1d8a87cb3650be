"""A small Headrace with fake engines for tests of graduations: `FOLDER MOMENT FLAGS…`; the lock is a file with an engine's name.

MOMENT is when the program kills itself, as in `after:shifting` (once the journal says so), `before:commit`; `-` is never.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from headrace.control.graduate import Graduations
from headrace.control.graduation import Aim
from headrace.control.journal import Entry, Journal, written
from headrace.control.loop import Loop
from headrace.control.under_way import Prospect
from headrace.engines.base import Placement
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.plan.base import Plan, PlannedModel
from headrace.serve import View
from headrace.targets.base import Replica
from headrace.targets.local import LocalTarget
from headrace.testing.engine import fake_engine
from headrace.traffic import ModelStatus


def planned(engine: str) -> PlannedModel:
    placement = Placement("chat", engine, "generate", "w.gguf", 512, 4, 1, 1000)
    return PlannedModel("chat", "generate", None, (placement,), 4, (), 512)


class Mortal(Journal):
    """A journal whose program dies at a moment."""

    def __init__(self, folder: Path, moment: str) -> None:
        super().__init__(folder)
        self._moment = moment

    def write(self, entry: Entry) -> None:
        self.reach(f"before:{entry.phase}")
        super().write(entry)
        self.reach(f"after:{entry.phase}")

    def reach(self, moment: str) -> None:
        if moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(folder: Path, moment: str, flags: Sequence[str]) -> None:
    lock, journal = folder / "lock", Mortal(folder / "journal", moment)
    old = fake_engine("--tokens", "8", "--token-seconds", "0.01", name="old")
    new = fake_engine("--tokens", "8", "--token-seconds", "0.01", *flags, name="new")

    async def planner(aim: Aim, present: Plan, replicas: Sequence[Replica]) -> Prospect:
        return Prospect(planned(aim.to), f"to {aim.to}", aim.to)

    def commit(prospect: Prospect) -> None:
        journal.reach("before:commit")
        written(lock, (prospect.lock or "").encode())
        journal.reach("after:commit")

    plan = Plan((planned(lock.read_text() if lock.exists() else "old"),), 1_000_000)
    view, moves = View(), Graduations(planner, commit, journal)
    admin = Admin(view, {}, view)
    gateway = Gateway(Limits(100, 30.0, 10**6), [ModelStatus("chat", "generate", "loading")], {}, admin.app)
    admin.gateway = gateway
    _, port = await gateway.listen("127.0.0.1", 0)
    target = LocalTarget({"old": old, "new": new}, Path(tempfile.mkdtemp(dir=folder)))
    loop = view.loop = moves.loop = Loop(plan, target, gateway, lambda statuses: None, mover=moves)
    moves.recover()
    admin.graduations.graduations = moves
    written(folder / "port", str(port).encode())
    await loop.run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
