"""A process that runs OpenVINO, and requests to it."""

import asyncio
import json
import os
import subprocess
import sys

from engine_client import Exchange, chat

from headrace.engines import own

SPEC = {"name": "chat", "slots": 2, "context": 256, "threads": 2, "batch": 64, "cache_bytes": 0}
ENDLESS = {"max_tokens": 200, "ignore_eos": True, "stream": True}


class Runner:
    """A process, and requests to it."""

    def __init__(self, model, folder, cache, home=None, **more):
        self.path = f"{folder}/engine.sock"
        spec = SPEC | {"model": str(model), "address": f"unix:{self.path}"} | more
        argv = [sys.executable, "-P", "-m", "headrace.runners.openvino", json.dumps(spec)]
        environment = os.environ | {"ENGINE_KEY": "s3cret", "HEADRACE_ENGINE_CACHE": str(cache)}
        environment |= {"HOME": str(home)} if home else {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(argv, env=environment, **pipes)

    def said(self, start):
        """Read output up to the line that begins with `start`; everything read."""
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith(start):
                return "".join(lines)
        raise AssertionError(f"{start} was not said: {lines}")

    async def send(self, method, path, body=None, key="s3cret"):
        exchange = Exchange(*await asyncio.open_unix_connection(self.path))
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        exchange.request(method, path, b"" if body is None else json.dumps(body).encode(), authorization)
        return exchange

    async def ask(self, method, path, body=None, key="s3cret"):
        exchange = await self.send(method, path, body, key)
        answer = await exchange.until()
        exchange.close()
        return answer

    async def chat(self, **more):
        return await self.ask("POST", "/v1/chat/completions", chat(**more))

    async def complete(self, prompt, **more):
        body = {"model": "chat", "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
        return await self.ask("POST", "/v1/completions", body)

    async def reading(self):
        return own.read((await self.ask("GET", "/metrics")).body.decode(), "chat")

    async def until(self, wanted):
        """Poll the page until `wanted` is true of the reading."""
        async with asyncio.timeout(60):
            while not wanted(await self.reading()):
                await asyncio.sleep(0.02)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
