"""What only engines know and the gateway hands on: tokens, audio; forms whose model is found without reading the rest."""

import contextlib
import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.form import HEAD_BYTES, PART_LIMIT, peek_form, renamed
from headrace.gateway.openai import Refusal

from .clients import request
from .engines import LAST, STREAM, chunk, says, whole

KIND = b"multipart/form-data; boundary=xyz"
AUDIO = bytes(range(256)) * 40 + b"\r\n--xy\r\n\r\n"


def part(content: bytes, disposition: bytes, *lines: bytes) -> bytes:
    head = b"\r\n".join((b"Content-Disposition: form-data; " + disposition, *lines))
    return b"--xyz\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


FILE = part(AUDIO, b'name="file"; filename="a.wav"', b"Content-Type: audio/wav")
MODEL = part(b"chat", b'name="model"')
END = b"--xyz--\r\n"


# ---- forms


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (KIND, FILE + MODEL + END),
        (KIND, MODEL + FILE + END),
        (KIND, b"preamble\r\n" + MODEL + END),
        (KIND, MODEL.replace(b"--xyz\r\n", b"--xyz \t\r\n") + END),  # spaces may follow a boundary
        (KIND, part(b"chat", b"name=model") + END),
        (KIND, part(b"chat", b'name="model"', b"Content-Type: text/plain") + END),
        (KIND, part(b"", b'name="prompt"') + MODEL + END),
        (b'Multipart/Form-Data; charset=utf-8; boundary="xyz"', MODEL + END),
    ],
)
def test_a_forms_model_is_found(kind, body):
    ask = peek_form(kind, body)
    assert (ask.model, body[ask.start : ask.end], ask.stream) == ("chat", b"chat", False)


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        (b"application/json", b"{}", 415, "multipart/form-data"),
        (b"multipart/form-data", MODEL + END, 415, "boundary"),
        (KIND, FILE + END, 400, '0 fields "model"'),
        (KIND, MODEL + FILE + MODEL + END, 400, '2 fields "model"'),  # which of them an engine takes is not known
        (KIND, part(b"", b'name="model"') + END, 400, "1 to 1024"),
        (KIND, part(b"a" * 1025, b'name="model"') + END, 400, "1 to 1024"),
        (KIND, part(b"\xff", b'name="model"') + END, 400, "1 to 1024"),
        (KIND, part(b"chat", b'name="model"; name="other"') + END, 400, "exactly one name"),
        (KIND, part(b"chat", b'name="a"', b'Content-Disposition: form-data; name="model"') + END, 400, "exactly one name"),
        (KIND, part(b"chat", b'filename="model"') + END, 400, "exactly one name"),
        (KIND, MODEL, 400, "no end"),
        (KIND, b"", 400, "boundary is not there"),
        (KIND, part(b"chat", b'name="model"', b"A: " + b"a" * HEAD_BYTES) + END, 400, "too long a head"),
        (KIND, part(b"", b'name="a"') * (PART_LIMIT + 1) + END, 400, "more than 64 parts"),
    ],
)
def test_a_form_that_can_be_read_in_two_ways_is_refused(kind, body, status, words):
    with pytest.raises(Refusal) as refused:
        peek_form(kind, body)
    assert refused.value.status == status
    assert words in refused.value.message


def test_another_name_leaves_every_other_byte():
    body = FILE + MODEL + END
    ask = peek_form(KIND, body)
    assert renamed(ask, body, "there/whisper") == FILE + part(b"there/whisper", b'name="model"') + END
    assert renamed(ask, body, "chat") is body


@given(
    st.lists(
        st.sampled_from([b"--xyz", b"--", b"\r\n", b"\r\n\r\n", b"chat", b"Content-Disposition: form-data", b'; name="model"'])
    )
)
def test_any_form_is_read_or_refused(parts):
    body = b"".join(parts)
    with contextlib.suppress(Refusal):
        ask = peek_form(KIND, body)
        assert body[ask.start : ask.end].decode() == ask.model


# ---- through the gateway


@pytest.fixture
async def client(world):
    async with openai.AsyncOpenAI(base_url=f"http://{world.host}:{world.port}/v1", api_key="mine", max_retries=0) as made:
        yield made


async def test_speech_is_written_down(world, client):
    engine = await world.engine(says(whole(b'{"text":"Hello."}')))
    asks = {"model": "gpt-4o", "file": ("a.wav", AUDIO), "prompt": "é"}
    written = await client.audio.transcriptions.create(**asks)
    with pytest.warns(DeprecationWarning, match="deprecated"):  # by OpenAI; engines have it
        translated = await client.audio.translations.create(**asks)
    assert written.text == translated.text == "Hello."
    first, second = engine.asked
    assert (first.target, second.target) == ("/v1/audio/transcriptions", "/v1/audio/translations")
    assert first.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert peek_form(first.headers["content-type"].encode(), first.body).model == "there"
    assert AUDIO in first.body
    assert "é".encode() in first.body
    assert "authorization" not in first.headers


async def test_a_transcription_may_be_streamed(world):
    data = b'data: {"type":"transcript.text.delta","delta":"Hel"}\n\n'
    await world.engine(says(STREAM + chunk(data) + LAST))
    body = FILE + MODEL + part(b"true", b'name="stream"') + END
    head = request(body, f"Content-Type: {KIND.decode()}", target="/v1/audio/transcriptions")
    answer = await world.ask(head.replace(b"Content-Type: application/json\r\n", b"", 1))
    assert (answer.status, answer.body) == (200, data)


async def test_a_text_is_read_out(world, client):
    sound = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n%s" % (len(AUDIO), AUDIO)
    engine = await world.engine(says(sound))
    speech = await client.audio.speech.create(model="chat", voice="alloy", input="Hello.", extra_body={"mine": 1})
    assert speech.content == AUDIO
    assert engine.asked[-1].json == {"model": "there", "voice": "alloy", "input": "Hello.", "mine": 1}


@pytest.mark.parametrize(
    ("path", "fields", "reaches"),
    [
        # each engine reads its own name of the text, and passes over the other
        ("/tokenize", {"prompt": "Hi", "mine": 1}, {"prompt": "Hi", "content": "Hi", "mine": 1}),
        ("/tokenize", {"content": "Hi"}, {"prompt": "Hi", "content": "Hi"}),
        ("/tokenize", {"prompt": "a", "content": "b"}, {"prompt": "a", "content": "b"}),
        ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}, {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/detokenize", {"tokens": [1, 2]}, {"tokens": [1, 2]}),
        ("/detokenize", {"tokens": []}, {"tokens": []}),
    ],
)
async def test_tokens_are_made_by_the_engine(world, path, fields, reaches):
    engine = await world.engine(says(whole(b'{"tokens":[1,2],"count":2}')), model_there="chat")
    answer = await world.ask(request(json.dumps({"model": "chat"} | fields).encode(), target=path))
    assert (answer.status, answer.json) == (200, {"tokens": [1, 2], "count": 2})
    assert engine.asked[-1].target == path
    assert engine.asked[-1].json == {"model": "chat"} | reaches


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/tokenize", whole(b'{"detail":"Not Found"}', b"404 Not Found")),
        (
            "/v1/audio/speech",
            whole(b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', b"404 Not Found"),
        ),
        ("/v1/audio/speech", whole(b'{"detail":"Method Not Allowed"}', b"405 Method Not Allowed")),
        ("/detokenize", whole(b'{"error":{"code":501,"message":"not supported"}}', b"501 Not Implemented")),
    ],
)
async def test_an_engine_that_has_no_such_path_says_so(world, path, answer):
    await world.engine(says(answer))
    got = await world.ask(request(b'{"model":"chat","input":"x","tokens":[1]}', target=path))
    assert (got.status, got.error["code"]) == (400, "unsupported")
    assert got.error["message"] == f'The engine of model "chat" has no {path}.'


async def test_an_adapter_that_an_engine_has_not_is_not_a_path_that_it_has_not(world):
    message = b"The model `there` does not exist. Valid aliases: x."
    await world.engine(says(whole(b'{"error":{"message":"%s","code":404}}' % message, b"404 Not Found")))
    got = await world.ask(request(b'{"model":"chat","prompt":"x"}', target="/tokenize"))
    assert (got.status, got.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/tokenize", "/v1/audio/speech", "/v1/messages/count_tokens"])
async def test_engines_that_speak_otherwise_are_not_asked(world, path):
    engine = await world.engine(says(whole()), speaks="generate")
    body = b'{"model":"chat","input":"x","messages":[{"role":"user","content":"Hi"}]}'
    got = await world.ask(request(body, target=path))
    assert (got.status, got.json["error"]["code"]) == (400, "wrong_protocol")
    assert not engine.asked
