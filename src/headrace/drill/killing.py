"""SIGKILL to a replica, once it is proven to be one of the gateway that was asked: a status may come through a tunnel or out of a
container, and its pids are then those of other processes here.
"""

from urllib.parse import urlsplit

import psutil


def kill(pid: int, url: str) -> str:
    """Why it was not killed, else nothing. Headrace starts replicas itself, and listens itself, after a takeover as well."""
    port = urlsplit(url).port or (443 if url.startswith("https:") else 80)
    try:
        process = psutil.Process(pid)
        parent = process.parent()
        if parent is None or not _listens(parent, port):
            return (
                f"process {pid} was not started by what listens on port {port} here: the gateway is elsewhere, "
                "behind a tunnel, a proxy or in a container; drill it where it runs"
            )
        process.kill()  # of the process that was looked at, not of another with its pid
    except psutil.NoSuchProcess:
        return f"process {pid} is not here any more, or the gateway is elsewhere"
    except (psutil.Error, OSError) as error:
        return f"process {pid} may not be looked at or killed: {error}"
    return ""


def _listens(process: psutil.Process, port: int) -> bool:
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in process.net_connections("tcp"))
