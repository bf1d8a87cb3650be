"""What is asked of a running tritonserver and of llama.cpp in it, over HTTP on loopback."""

import json
import os
import re
import urllib.parse
import urllib.request

_SECONDS = 5.0


def decoupled(port: int, model: str) -> bool:
    """Whether it may go on with a request after it has returned from it."""
    try:
        config = json.loads(got(port, f"/v2/models/{urllib.parse.quote(model)}/config"))
    except (OSError, ValueError):
        return True
    return bool(config.get("model_transaction_policy", {}).get("decoupled"))


def busy(port: int) -> bool:
    """Whether llama.cpp, whose metrics are there, computes or holds requests. Raises OSError."""
    return _SOME.search(got(port, "/metrics").decode()) is not None


def got(port: int, path: str) -> bytes:
    """The body of a page of our server. Raises OSError."""
    key = {"Authorization": f"Bearer {os.environ.get('ENGINE_KEY', '')}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=key)
    with _DIRECT.open(request, timeout=_SECONDS) as answer:
        body: bytes = answer.read()
    return body


_SOME = re.compile(r"^llamacpp:requests_(?:processing|deferred) [^0]", re.MULTILINE)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever proxies the environment names: loopback is not theirs."""
