"""What is promised of vectors, ranks and tensors."""

import base64
import json
import struct

import pytest
from deployment import Deployment
from engine_client import header
from promises import promise

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
INFER, PREDICT = "/v2/models/tensors/infer", "/v1/models/tensors:predict"

ROWS = ((1.0, 2.0, 3.0, 4.0), (0.0, 0.0, 0.0, 1.0))
SUMS = ((30.0, 14.0), (4.0, 11.0))
"""What `x · [[1, 0], [2, 0], [3, 0], [4, 1]] + [0, 10]` makes of the rows."""
TENSORS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [*ROWS[0], *ROWS[1]]}]}


@promise("embed", EMBEDDINGS, {"model": "embed", "input": ["a cat", "a dog"]})
async def embeddings_come_one_per_input(at: Deployment) -> None:
    """Embeddings come one per input, in order, of length 1, also in base64, and are counted."""
    body = {"model": "embed", "input": ["a cat", "a dog"]}
    answer = (await at.ask(EMBEDDINGS, body)).json
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert vectors[0] != vectors[1]
    for vector in vectors:
        assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-3)
    assert answer["usage"]["prompt_tokens"] > 0
    packed = (await at.ask(EMBEDDINGS, body | {"encoding_format": "base64"})).json["data"][1]["embedding"]
    assert struct.unpack(f"<{len(vectors[1])}f", base64.b64decode(packed)) == pytest.approx(vectors[1], abs=1e-3)


@promise("rerank", RERANK, {"model": "rerank", "query": "a cat", "documents": ["stones", "a cat and a dog", "a dog"]})
async def documents_are_ranked(at: Deployment) -> None:
    """Documents are ranked, the best first, as many as wanted."""
    body = {"model": "rerank", "query": "a cat", "documents": ["stones", "a cat and a dog", "a dog"], "top_n": 2}
    results = (await at.ask(RERANK, body)).json["results"]
    assert [each["index"] for each in results] == [1, 2]
    assert results[0]["relevance_score"] > results[1]["relevance_score"]


@promise("infer", INFER, TENSORS)
async def tensors_go_in_and_out(at: Deployment) -> None:
    """Tensors go in and come out by the Open Inference Protocol (KServe V2), in JSON."""
    answer = await at.ask(INFER, TENSORS)
    assert answer.status == 200, answer.body
    output = answer.json["outputs"][0]
    assert output["shape"] == [2, 2]
    assert output["data"] == [*SUMS[0], *SUMS[1]]


@promise("infer", INFER, TENSORS)
async def tensors_go_in_and_out_in_binary(at: Deployment) -> None:
    """The same in binary: lengths in the headers, both ways, through the gateway byte for byte."""
    raw = struct.pack("<8f", *ROWS[0], *ROWS[1])
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = await at.ask(INFER, head + raw, headers=f"Inference-Header-Content-Length: {len(head)}\r\n")
    assert answer.status == 200, answer.body
    size = int(header(answer, "inference-header-content-length"))
    output = json.loads(answer.body[:size])["outputs"][0]
    assert output["shape"] == [2, 2]
    kind = {"FP32": "f", "FP64": "d"}[output["datatype"]]
    length = output["parameters"]["binary_data_size"]
    assert struct.unpack(f"<4{kind}", answer.body[size : size + length]) == (*SUMS[0], *SUMS[1])


@promise("infer", INFER, TENSORS)
async def malformed_tensors_are_400(at: Deployment) -> None:
    """Tensors of the wrong shape, of no shape, or no JSON at all are 400 in the protocol's own words."""
    wrong = ({"inputs": [TENSORS["inputs"][0] | {"shape": [2, 3]}]}, {"inputs": [{"name": "x"}]}, {})
    for body in (*(json.dumps(each).encode() for each in wrong), b"{no json"):
        answer = await at.ask(INFER, body)
        assert answer.status == 400, answer.body
        assert answer.json["error"]


@promise("infer", PREDICT, {"instances": ROWS})
async def predictions_are_made(at: Deployment) -> None:
    """Predictions are made for instances (KServe V1)."""
    answer = await at.ask(PREDICT, {"instances": ROWS})
    assert answer.status == 200, answer.body
    assert [tuple(each) for each in answer.json["predictions"]] == list(SUMS)
