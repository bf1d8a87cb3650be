"""A server on loopback that answers as it is told to, by method and path, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Answer = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class KubeServer:
    """`answer` gives the status and the JSON (bytes: as they are; None: the connection ends without an answer)."""

    answer: Callable[[Asked], Answer | None]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def kubeconfig(
        self, folder: Path, *, token: str | None = "secret-token", name: str = "config", context: str = "here"
    ) -> Path:
        user = {"token": token} if token else {}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
            "current-context": context,
        }
        file = folder / name
        file.write_text(yaml.safe_dump(config))
        return file


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections at once; beyond, the kernel has clients wait for a second


@contextmanager
def kube_server(answer: Callable[[Asked], Answer | None]) -> Iterator[KubeServer]:
    server = KubeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            url = urlsplit(self.path)
            body = json.loads(self.rfile.read(length)) if length else None
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            asked = Asked(self.command, url.path, query, dict(self.headers.items()), body)
            server.asked.append(asked)
            answered = server.answer(asked)
            if answered is None:
                self.close_connection = True
                return
            status, content = answered
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    http = Server(("127.0.0.1", 0), Handler)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
