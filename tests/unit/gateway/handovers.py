"""A gateway that runs and what may take its place, for tests of handovers."""

import asyncio
import socket

from headrace.gateway.gateway import Gateway, Limits
from headrace.handover.line import Held, Line
from headrace.handover.offer import Offer
from headrace.handover.place import path_for
from headrace.handover.predecessor import predecessor

from .clients import chat
from .engines import ANSWER

HELD = Held({"chat": "ready"}, 3_000, 1_000)


class Said:
    """A terminal that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, text=""):
        self.lines.append(text)

    def __contains__(self, text):
        return any(text in line for line in self.lines)


class Pair:
    """A gateway that runs, its offer, and what is needed to take its place."""

    def __init__(self, world):
        self.world, self.said, self.next_said = world, Said(), Said()
        self.why = ""
        self.offer = Offer("serve", world.gateway, self.said, lambda: HELD, lambda: self.why)
        self.offer.open()
        self.made = []

    @property
    def path(self):
        return path_for(*self.world.gateway.door.address)

    async def asks(self, kind="serve"):
        """The next one finds the running one."""
        found = await predecessor(kind, self.world.host, self.world.port, self.next_said)
        if found is not None:
            self.made.append(found)
        return found

    def gateway(self):
        """The next one's."""
        made = Gateway(Limits(8, 8.0, 1 << 20), self.world.statuses.values(), {}, self.world.admin.app)
        made.update(self.world.statuses.values(), self.world.endpoints)
        self.made.append(made)
        return made

    async def line(self):
        """A connection to the running one, by hand."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        return Line(sock)

    async def close(self):
        self.offer.close()
        for one in self.made:
            one.close()
        await asyncio.sleep(0)


async def reachable(world):
    return (await world.ask(chat())).body == ANSWER
