"""The options that name a gateway to ask: its address, and whose certificates are believed."""

import argparse
import os

from headrace.spec.addresses import GATEWAY


def add(command: argparse.ArgumentParser) -> None:
    """Add `--url` and `--ca`."""
    default = os.environ.get("HEADRACE_URL", GATEWAY)
    command.add_argument("--url", default=default, help=f"the gateway's address (default: HEADRACE_URL, else {GATEWAY})")
    add_ca(command)


def add_ca(command: argparse.ArgumentParser) -> None:
    """Add `--ca`, for an https address."""
    command.add_argument(
        "--ca",
        type=_trusted,
        metavar="FILE",
        help="certificates that sign the server's, in PEM (default: SSL_CERT_FILE, else the system's)",
    )


def _trusted(file: str) -> str:
    """Believe these from now on, whatever this command asks with: OpenSSL knows the variable by itself."""
    import ssl

    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{file} has no certificates in PEM: {error.strerror or error}") from None
    os.environ["SSL_CERT_FILE"] = file
    return file
