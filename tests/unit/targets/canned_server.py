"""A server that sends prepared bytes, whatever they are, and leaves nothing open behind it."""

import asyncio
import contextlib


class CannedServer:
    """Answers a request for `path` with `answer(path)`; then closes, or with `stays_open` waits for the client to."""

    def __init__(self, answer, stays_open=False):
        self._answer, self._stays_open = answer, stays_open
        self._tasks = set()
        self.asked = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.sleep(0)  # connections that are there already become tasks
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._answer(self.asked[-1].split()[1].decode()))
            await (reader.read() if self._stays_open else writer.drain())
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()
        writer.close()
