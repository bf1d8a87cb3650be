"""A GGUF language model inside Triton's python backend, computed by llama.cpp: streamed token by token, many at once.

Takes and gives what Triton's vLLM backend does (vllm_backend @8de0c14, src/model.py): `text_input`, `stream`,
`sampling_parameters` (a JSON object as a string), `exclude_input_in_output` and the `return_*` flags. `execute` hands
requests to threads and returns; Triton's own counters end there, so llama.cpp's metrics page tells what runs and waits. It
is no use to count with the back end's own metrics: tritonserver 2.51 crashes when requests at once set them
(boost::interprocess::lock_exception in libtriton_python.so, within seconds).
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
import xllamacpp

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty")
"""What of vLLM's sampling parameters llama.cpp's server takes under the same name."""

DEFAULT_TOKENS = 16  # vLLM's own, when no limit is given
ASK_SECONDS = 0.1
_FINAL = backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Loads the file that the configuration's parameters name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; raises what llama.cpp says."""
        parameters = json.loads(args["model_config"])["parameters"]
        given = {key: str(value["string_value"]) for key, value in parameters.items()}
        slots, queue = int(given["slots"]), int(given["queue"])
        self._server = _served(given["weights"], slots, int(given["context"]), int(given["threads"]), int(given["port"]))
        # A thread for each that may be there: llama.cpp queues by itself, and who left the queue is noticed there
        self._free = threading.Semaphore(slots + queue)
        self._threads = ThreadPoolExecutor(slots + queue)

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin each request; its responses come when they come."""
        for request in requests:
            sender = request.get_response_sender()
            if self._free.acquire(blocking=False):
                self._threads.submit(self._answer, request, sender)
            else:
                _refuse(sender, "Exceeds maximum queue size", "UNAVAILABLE")  # as Triton's own queue says it

    def finalize(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown()

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            generation = Generation(Asked(request), sender)
            self._server.handle_completions(json.dumps(generation.asked.body), generation.hear)
            generation.end()
        except Exception as error:
            print(f"a request failed: {error!r}", file=sys.stderr, flush=True)
            _refuse(sender, f"{type(error).__name__}: {error}")
        finally:
            self._free.release()


class Asked:
    """A request, read. Raises ValueError when it cannot be obeyed."""

    def __init__(self, request: Any) -> None:
        self.prompt = str(_value(request, "text_input", b"").decode())
        self.stream = bool(_value(request, "stream", False))
        exclude = _value(request, "exclude_input_in_output", None)
        if self.stream and exclude is not None and not exclude:
            raise ValueError("a stream cannot give the input back: exclude_input_in_output must be true or left out")
        self.echo = not self.stream and not exclude
        self.finish, self.tokens_in, self.tokens_out = (
            bool(_value(request, f"return_{name}", False)) for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
        )
        self.body = {
            **_sampling(_value(request, "sampling_parameters", b"{}"), json.loads(request.parameters() or "{}")),
            "prompt": self.prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Generation:
    """One answer under way: hears llama.cpp's events, sends Triton's responses."""

    def __init__(self, asked: Asked, sender: Any) -> None:
        self.asked = asked
        self.tokens_in = self.tokens_out = 0
        self._sender = sender
        self._text: list[str] = []
        self._finish: str | None = None
        self._error = ""
        self._ask_at = 0.0

    def hear(self, event: str) -> bool:
        """One event. True when the client is gone: llama.cpp then stops."""
        data = json.loads(event)
        if "error" in data:
            self._error = str(data["error"].get("message", data["error"]))
            return True
        usage = data.get("usage") or {}
        self.tokens_in = usage.get("prompt_tokens", self.tokens_in)
        self.tokens_out = usage.get("completion_tokens", self.tokens_out)
        for choice in data.get("choices", ()):
            self._finish = choice.get("finish_reason") or self._finish
            self._say(choice.get("text") or "")
        return self._left()

    def _left(self) -> bool:
        """Whether the client is gone. Asking is a message to tritonserver and back: not at every token."""
        now = time.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_SECONDS
        return bool(self._sender.is_cancelled())

    def end(self) -> None:
        """The last response; when it is an answer that is no stream, the only one."""
        if self._error:
            return _refuse(self._sender, self._error)
        text = "".join(self._text)
        self._sender.send(self._response(self.asked.prompt + text if self.asked.echo else text, last=True), flags=_FINAL)

    def _say(self, text: str) -> None:
        if not self.asked.stream:
            self._text.append(text)
        elif text:
            self._sender.send(self._response(text, last=False))

    def _response(self, text: str, last: bool) -> Any:
        tensors = [_text("text_output", text)]
        if self.asked.finish:
            tensors.append(_text("finish_reason", str(self._finish)))
        if self.asked.tokens_in and last:
            tensors.append(_count("num_input_tokens", self.tokens_in))
        if self.asked.tokens_out and last:
            tensors.append(_count("num_output_tokens", self.tokens_out))
        return backend.InferenceResponse(tensors)


def _sampling(text: bytes, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling parameters from the JSON string, and from the request's own parameters, which Triton puts first."""
    try:
        given = json.loads(text) | dict(parameters)
    except (ValueError, TypeError) as error:
        raise ValueError(f"sampling_parameters is not a JSON object: {error}") from error
    return {"max_tokens": DEFAULT_TOKENS} | {name: given[name] for name in SAMPLING if given.get(name) is not None}


def _value(request: Any, name: str, default: Any) -> Any:
    tensor = backend.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().ravel()[0]


def _text(name: str, text: str) -> Any:
    return backend.Tensor(name, np.array([text.encode("utf-8", "replace")], np.object_))


def _count(name: str, number: int) -> Any:
    return backend.Tensor(name, np.array([number], np.uint32))


def _refuse(sender: Any, message: str, kind: str = "INVALID_ARG") -> None:
    error = backend.TritonError(message, getattr(backend.TritonError, kind))
    sender.send(backend.InferenceResponse(error=error), flags=_FINAL)


def _served(path: str, slots: int, context: int, threads: int, port: int) -> Any:
    """llama.cpp's server. It listens on loopback, with the key of the replica: for its metrics page."""
    p = xllamacpp.CommonParams()
    p.model.path = path
    p.hostnames, p.port = ["127.0.0.1"], port
    key = os.environ.get("ENGINE_KEY", "")
    p.api_keys = [key] if key else []
    p.n_parallel, p.n_ctx = slots, slots * context
    for each in (p.cpuparams, p.cpuparams_batch):
        each.n_threads = threads
    p.cache_ram_mib = 0
    p.endpoint_metrics = True
    p.ui = p.fit_params = False
    p.verbosity = 2
    try:
        return xllamacpp.Server(p)
    except RuntimeError as error:  # always "Failed to init server": llama.cpp gives the cause on stderr
        raise RuntimeError("llama.cpp cannot load it, and gives the cause in the lines before") from error
