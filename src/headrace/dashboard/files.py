"""What pages are made of: templates and static files out of the package, packed where the browser takes it."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from headrace import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, no script or style inside a page: what a model or a log says stays text, whatever it is."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept, Accept-Encoding",
}
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
}
_SMALL = 1024


@cache
def _names() -> frozenset[str]:
    folder = HERE / "static"
    return frozenset(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in _KINDS)


@cache
def _static(name: str) -> tuple[bytes, bytes]:
    """(as it is, packed)."""
    content = (HERE / "static" / name).read_bytes()
    return content, gzip.compress(content, 9, mtime=0)


@cache
def version() -> str:
    """Changes with any static file: browsers keep those that they have until then."""
    digest = hashlib.sha256(__version__.encode())
    for name in sorted(_names()):
        digest.update(_static(name)[0])
    return digest.hexdigest()[:12]


def static(request: Request, name: str) -> Response | None:
    """A static file, None when there is none of that name."""
    if name not in _names():
        return None
    plain, packed = _static(name)
    headers = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
    if _packs(request):
        return Response(packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=_KINDS[Path(name).suffix])
    return Response(plain, headers=headers, media_type=_KINDS[Path(name).suffix])


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page, or a part of one, out of a template. Nothing keeps it: it shows what is now."""
    html = _templates().get_template(template).render(version=version(), headrace=__version__, **values).encode()
    headers = HEADERS | {"Cache-Control": "no-store"}
    if len(html) > _SMALL and _packs(request):
        html, headers = gzip.compress(html, 3), headers | {"Content-Encoding": "gzip"}
    return Response(html, status, headers, "text/html; charset=utf-8")


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(HERE / "pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _packs(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
