"""When a replica that failed may be started again: backing off, and giving up on a crash loop."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds to wait after the first, second … failure (the last one repeats); a replica that was ready for
    `stable_seconds` starts from the beginning again; after `most_failures` without that, it is not started again by
    itself.
    """

    backoff: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
    stable_seconds: float = 60.0
    most_failures: int = 5

    def failures(self, before: int, ready_seconds: float) -> int:
        """Failures in a row, counting the present one, of a replica that failed `before` times and was ready that
        long.
        """
        return 1 if ready_seconds >= self.stable_seconds else before + 1

    def retry_at(self, failures: int, now: float) -> float | None:
        """When to start again after that many failures in a row; None for never."""
        if failures >= self.most_failures:
            return None
        return now + self.backoff[min(failures, len(self.backoff)) - 1]
