"""Run by the environment's own interpreter: tells tritonserver to unload or reload models.

Over gRPC on a Unix socket that only its owner can open. The same over HTTP is closed: whoever may load a model may run
code, and neither a browser's pages nor other users of this machine shall.
"""

import os
import sys
from typing import Any

import tritonclient.grpc as triton

_LOAD_SECONDS = 600


def main() -> None:
    """`unload SOCKET NAME…` or `reload SOCKET NAME`; exits with 1 and the cause in one line on stderr."""
    action, socket, *names = sys.argv[1:]
    client = triton.InferenceServerClient(f"unix:{socket}")
    causes = [cause for name in names if (cause := _done(client, action, name))]
    print("; ".join(causes), file=sys.stderr, flush=True)
    os._exit(bool(causes))  # gRPC's threads take their time


def _done(client: Any, action: str, name: str) -> str:
    """Why it could not be. Unloading returns at once, and what runs goes on to its end. A model whose process died after a
    request had reached it stays UNLOADING for ever, and can be loaded again all the same.
    """
    try:
        client.unload_model(name)
        if action == "reload":
            client.load_model(name, client_timeout=_LOAD_SECONDS)
    except triton.InferenceServerException as error:
        return " ".join(str(error.message()).split())
    return ""
