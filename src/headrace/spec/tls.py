"""The `gateway.tls` section: the certificate that the gateway shows."""

from typing import Annotated

from pydantic import Field

from headrace.spec.values import Strict

Path = Annotated[str, Field(min_length=1)]


class TlsSpec(Strict):
    """The certificate of the gateway, in PEM. The files are read again when they change."""

    cert: Path = Field(description="File with the certificate, and behind it those that signed it, the root left out.")
    key: Path = Field(description="File with its private key, without a password.")
    clients: Path | None = Field(
        None,
        description="File with certificates that sign clients': whoever has none of theirs is not let in. Default: anybody is.",
    )
