"""The file of a running gateway, read again whenever it changes; one that is wrong is told of once and changes nothing."""

import logging
from collections.abc import Mapping
from pathlib import Path

from headrace.changed import Followed
from headrace.spec.gateway_file import GatewayFile, GatewayFileError, read

LARGEST_BYTES = 2 * 1024 * 1024
"""A ConfigMap holds 1 MiB."""

_FIXED = ("namespace", "service", "scaler")
_FIXED_OF_GATEWAY = ("listen", "keys", "tls", "log", "redis", "currency")
"""What a running gateway cannot change: the pods are made anew for it."""

log = logging.getLogger("headrace")


class Reloaded:
    """The file at `path`. In a pod it is a link that the kubelet turns to another folder, all files of a ConfigMap at once."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path, self._environment = path, environment
        self._text = b""
        self._file = Followed(path)

    def first(self) -> GatewayFile:
        """What it says now. Raises GatewayFileError."""
        self._file.changed()
        self._text = self._content()
        self._file.read()
        return self._parsed()

    def again(self, now: GatewayFile) -> GatewayFile | None:
        """What it says, when that is another thing than before. Raises GatewayFileError, once for each change."""
        if not self._file.changed():
            return None
        try:
            text = self._content()
        except GatewayFileError as error:
            if self._file.is_news(str(error), unread=True):
                raise
            return None
        self._file.read()
        if text == self._text:
            return None
        self._text = text
        return _kept(self._parsed(), now)

    def keys(self, file: GatewayFile) -> dict[str, str]:
        """The API keys of servers outside, by model. Raises GatewayFileError for one that is not in the environment."""
        keys = {}
        for name, model in file.outside.items():
            if model.key is not None:
                variable = model.key.removeprefix("env:")
                if variable not in self._environment:
                    raise GatewayFileError(
                        f"{self._path}: outside.{name}.key: the environment has no {variable}.",
                        "The Deployment takes it from the Secret gateway-keys.",
                    )
                keys[name] = self._environment[variable]
        return keys

    def _parsed(self) -> GatewayFile:
        if len(self._text) > LARGEST_BYTES:
            raise GatewayFileError(f"{self._path} is larger than {LARGEST_BYTES} bytes.")
        file = read(self._text, str(self._path))
        self.keys(file)
        return file

    def _content(self) -> bytes:
        try:
            with self._path.open("rb") as stream:
                return stream.read(LARGEST_BYTES + 1)
        except OSError as error:
            raise GatewayFileError(f"{self._path} cannot be read: {error.strerror}.", "`headrace render` writes it.") from None


def _kept(file: GatewayFile, now: GatewayFile) -> GatewayFile:
    """The file without changes that this process cannot make."""
    changed = [name for name in _FIXED if getattr(file, name) != getattr(now, name)]
    fixed = {name: getattr(now.gateway, name) for name in _FIXED_OF_GATEWAY}
    changed += [f"gateway.{name}" for name, value in fixed.items() if getattr(file.gateway, name) != value]
    if changed:
        log.warning("%s of the file changed, which takes new pods: it stays as it is here", ", ".join(changed))
    gateway = file.gateway.model_copy(update=fixed)
    return file.model_copy(update={**{name: getattr(now, name) for name in _FIXED}, "gateway": gateway})
