"""A fake hub, and a cache that knows nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import pytest

from headrace.testing.hub import FakeHub
from headrace.weights.cache import Cache


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


@pytest.fixture
def cache(tmp_path, hub) -> Cache:
    """A cache that knows only the fake hub, also as a package index, and never pauses."""
    return Cache(str(tmp_path / "cache"), environment={}, index=f"{hub.url}/simple", endpoint=hub.url, pause=lambda seconds: None)


@pytest.fixture
def package(hub) -> Callable[..., None]:
    """Put wheels of a package on the fake index, by version; `sha256` overrides what the index says."""

    def put(name: str, wheels: Mapping[str, bytes], *, sha256: str | None = None, yanked: tuple[str, ...] = ()) -> None:
        files = []
        for version, data in wheels.items():
            filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
            hub.files[f"/files/{filename}"] = ("application/zip", data)
            digest = sha256 or hashlib.sha256(data).hexdigest()
            files.append(
                {
                    "filename": filename,
                    "url": f"../../files/{filename}",
                    "hashes": {"sha256": digest},
                    "size": len(data),
                    "yanked": version in yanked,
                }
            )
        files.append({"filename": f"{name}-9.tar.gz", "url": "../../files/x.tar.gz", "hashes": {}})
        page = json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode()
        hub.files[f"/simple/{name}/"] = ("application/vnd.pypi.simple.v1+json", page)

    return put
