"""What an API server refuses, as errors for the person at the terminal: whose fault it is, and what to do about it."""

import re
from collections.abc import Mapping
from typing import Any

from headrace.errors import HeadraceError

_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request:?\s*(?P<why>.*)', re.DOTALL)
_CALL = re.compile(r'failed calling webhook "(?P<name>[^"]+)":\s*(?P<why>.*)', re.DOTALL)
_OWNER = re.compile(r'conflict with "(?P<manager>[^"]+)"')
_LONGEST = 600


class ClusterError(HeadraceError):
    """The cluster cannot be asked, or lacks what is needed."""

    exit_code = 69
    status = 0
    """What the API server answered; 0 where it was not that."""


class DeniedError(ClusterError):
    """The cluster does not know the user, or does not let them do it."""

    exit_code = 77


class RefusedError(ClusterError):
    """An object that the API server or a webhook of the cluster does not take."""

    exit_code = 65


class ConflictError(ClusterError):
    """Fields of an object are kept by somebody else; `owners` are (field, manager)."""

    def __init__(self, what: str, fix: str, owners: tuple[tuple[str, str], ...]) -> None:
        super().__init__(what, fix)
        self.owners = owners


class AbsentError(ClusterError):
    """There is no such object, or no such kind."""


def refusal(status: int, body: Mapping[str, Any], what: str) -> ClusterError:
    """The error for an answer outside 2xx. `body` is the server's Status (empty: none came), `what` says what was asked,
    as in "apply Deployment chat".
    """
    error = _refusal(status, body, what)
    error.status = status
    return error


def _refusal(status: int, body: Mapping[str, Any], what: str) -> ClusterError:
    message = str(body.get("message") or f"the API server answered {status}")[:_LONGEST]
    if status == 401:
        return DeniedError(
            f"The cluster does not accept your credentials (to {what}): the token has expired or is wrong.",
            "Log in again (az aks get-credentials, kubelogin, …), then check with: kubectl auth whoami",
        )
    if found := _WEBHOOK.search(message):
        return RefusedError(f"The webhook {found['name']} refused to {what}: {_sentence(found['why'])}", "Change what it names.")
    if found := _CALL.search(message):
        return ClusterError(
            f"Cannot {what}: the webhook {found['name']} does not answer: {_sentence(found['why'])}",
            "See whether its pods run, then apply again.",
        )
    if status == 403:
        return _forbidden(message, what)
    if status == 404:
        return AbsentError(f"Cannot {what}: {_sentence(message)}")
    if status == 409 and (owners := _owners(body)):
        return _conflict(what, owners)
    if status == 422 and "immutable" in message:
        return RefusedError(
            f"Cannot {what}: what has changed in it cannot be changed in place. {_sentence(message)}",
            "Delete that object (kubectl delete), then apply again.",
        )
    if status in (400, 422):
        return RefusedError(f"Cannot {what}: the API server does not take it. {_sentence(message)}")
    again = "Apply again: what is done already stays." if what.startswith("apply ") else ""
    return ClusterError(f"Cannot {what}: {_sentence(message)}", again)


def _forbidden(message: str, what: str) -> ClusterError:
    if "exceeded quota" in message:
        quota = message.partition("exceeded quota:")[2].strip()
        return ClusterError(f"Cannot {what}: a quota of the namespace is used up: {quota}.", "Raise it, or ask for less.")
    return DeniedError(f"You may not {what}: {_sentence(message)}", "Ask whoever runs the cluster for a role that allows it.")


def _owners(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(field, manager) of each conflict, as server-side apply reports them."""
    causes = (body.get("details") or {}).get("causes") or ()
    found = []
    for cause in causes:
        if cause.get("reason") == "FieldManagerConflict":
            owner = _OWNER.search(str(cause.get("message", "")))
            found.append((str(cause.get("field", "?")), owner["manager"] if owner else "somebody else"))
    return tuple(found)


def _conflict(what: str, owners: tuple[tuple[str, str], ...]) -> ConflictError:
    said = ", ".join(f"{field.lstrip('.')} (by {manager})" for field, manager in owners)
    scaled = " A scaler sets the number of replicas: name it as a range, 0..8." if any("replicas" in f for f, _ in owners) else ""
    return ConflictError(
        f"Cannot {what}: somebody else keeps {said}.{scaled}",
        "--force takes these fields from them; or let them go there.",
        owners,
    )


def _sentence(text: str) -> str:
    return f"{' '.join(text.split()).rstrip('.')}."
