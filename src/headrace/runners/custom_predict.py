"""`predict` over HTTP: KServe V1 in JSON, KServe V2 (Open Inference Protocol) in JSON and binary, streams as events."""

import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from headrace.runners.batching import Batcher
from headrace.runners.custom_answers import Stream, begun, collected, parsed
from headrace.runners.custom_failure import Failure
from headrace.runners.custom_outputs import split, to_json, to_tensors
from headrace.runners.custom_types import Batch, Signature, tensors
from headrace.runners.custom_worker import Worker

DONE = b"data: [DONE]\n\n"


class Predict:
    """Answers with what the user's `predict` gives."""

    def __init__(self, name: str, function: Any, signature: Signature, worker: Worker) -> None:
        self._name, self._signature, self._worker = name, signature, worker
        self._where, self._function = signature.where, function
        self.streams = signature.streams
        self.batcher: Batcher | None = None
        """Of what is no generator: those take one input at a time."""

    async def v1(self, body: bytes, accept: str) -> Response:
        """`{"instances": [...]}` → `{"predictions": [...]}`, or events when a generator is asked to stream."""
        given = parsed(body)
        instances = given.get("instances")
        if not isinstance(instances, list):
            raise Failure(400, '"instances" is missing or no list.', "invalid_input", param="instances")
        batch = self._signature.from_json(instances) if instances else Batch(())
        if given.get("stream") is True or "text/event-stream" in accept:
            return await self._stream(batch)
        outputs = [self._signature.checked_output(each) for each in await self._outputs(batch)]
        return Response(to_json({"predictions": outputs}, self._where), media_type="application/json")

    async def v2(self, body: bytes, header: str | None) -> Response:
        """An inference request; every output that is asked for, in the form that is asked for."""
        try:
            from headrace.runners import tensors as oip
        except ImportError as error:
            raise Failure(501, "V2 needs numpy, which is not installed here: pip install numpy", "missing_numpy") from error
        try:
            request = oip.read(body, header)
        except oip.Malformed as error:
            raise Failure(400, str(error), "invalid_input") from None
        outputs = await self._outputs(self._signature.from_tensors(request.inputs))
        named = to_tensors([self._signature.checked_output(each) for each in outputs], self._where)
        try:
            answer, length = oip.write(self._name, request, named)
        except oip.Malformed as error:
            unknown = request.wanted is not None and not request.wanted.keys() <= named.keys()
            raise Failure(400 if unknown else 500, str(error), "invalid_input" if unknown else "model_error") from None
        if length is None:
            return Response(answer, media_type="application/json")
        return Response(answer, headers={oip.HEADER: str(length)}, media_type="application/octet-stream")

    async def _outputs(self, batch: Batch) -> Sequence[Any]:
        if self.batcher is not None:
            return await self.batcher.outputs(batch.inputs, batch.key)
        return [await collected(self._items(each)) for each in batch.inputs]

    async def call(self, inputs: Sequence[Any]) -> list[Any]:
        """As many outputs as inputs, in order."""
        function, argument = self._function, self._signature.argument
        if inspect.iscoroutinefunction(function):
            result = await self._worker.call(self._where, function, argument(inputs))
        else:  # arrays are put together in the thread, where it holds up nobody
            result = await self._worker.call(self._where, lambda: function(argument(inputs)))
        return split(result, len(inputs), self._where)

    def _items(self, each: Any) -> AsyncGenerator[Any]:
        return self._worker.items(self._where, self._function, each)

    async def _stream(self, batch: Batch) -> Response:
        if not self.streams:
            raise Failure(400, f"{self._where} does not stream: it is no generator", "invalid_input", param="stream")
        if len(batch.inputs) != 1:
            raise Failure(
                400, f"A stream is of one instance, and there are {len(batch.inputs)}.", "invalid_input", param="instances"
            )
        return Stream(await begun(self._events(batch.inputs[0])))

    async def _events(self, each: Any) -> AsyncGenerator[bytes]:
        items = self._items(each)
        try:
            async for item in items:
                yield b"data: " + to_json(self._signature.checked_output(item), self._where) + b"\n\n"
            yield DONE
        finally:
            await items.aclose()

    def metadata(self) -> Mapping[str, Any]:
        """What V2 says of a model. Which tensors there are is said where the annotations do."""
        return {
            "name": self._name,
            "versions": ["1"],
            "platform": "python",
            "inputs": tensors(self._signature.takes, "input"),
            "outputs": tensors(self._signature.gives, "output"),
        }
