"""What becomes of a job that failed: when it is tried again, and after how many failures of its kind never.

Each kind of failure is counted on its own, in the job's payload. The number of attempts is no measure: it also
counts how often a job met an upstream that was down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memory_service.errors import UpstreamError
from memory_service.system_rows import Job
from memory_service.upstream import is_lasting

NONSENSE_TRIES: Final = 5
REFUSED_PAUSE_S: Final = 300.0
REFUSED_TRIES: Final = 864  # three days: time for somebody to see that a model's name is mistyped
COUNTS: Final = ("nonsense", "refused", "failures")
BUDGET_PAUSE_S: Final = 3600.0
OPEN_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0


@dataclass(frozen=True)
class Verdict:
    """When a job is due again, and what is recorded of its failure: never what was said.

    :ivar counts: changed counts, to be merged into the job's payload
    """

    delay_s: float
    dead: bool
    error: str
    counts: dict[str, int]


def verdict(job: Job, error: Exception) -> Verdict:
    """Judges a failure. An upstream that is down is waited for without end; nonsense and bugs are not.

    A model that refuses a turn may refuse every turn, because of a setting, so it is waited for like one that is
    down, but not for ever: the turn itself may be what it refuses.
    """
    if not isinstance(error, UpstreamError):
        return _counted(job, "failures", job.max_attempts, kind_of(error))
    if error.reason == "budget":
        return Verdict(BUDGET_PAUSE_S, False, str(error), {})
    if error.reason == "open":
        return Verdict(OPEN_PAUSE_S, False, str(error), {})
    lasting = is_lasting(error)
    if lasting and job.kind == "extract":
        return _counted(job, "refused", REFUSED_TRIES, str(error), REFUSED_PAUSE_S)
    if lasting or error.reason in ("garbage", "unused"):
        return _counted(job, "nonsense", NONSENSE_TRIES, str(error))
    return Verdict(_growing(job.attempts), False, str(error), {})


def _counted(job: Job, name: str, tries: int, error: str, pause_s: float | None = None) -> Verdict:
    count = int(job.payload.get(name, 0)) + 1
    delay = _growing(count) if pause_s is None else pause_s
    return Verdict(delay, count >= tries, error, {name: count})


def _growing(times: int) -> float:
    return min(LONGEST_PAUSE_S, 2.0 ** min(times, 9))


def kind_of(error: BaseException) -> str:
    """The type of an error, and PostgreSQL's code for it; its text may hold what a person said."""
    return " ".join(filter(None, (type(error).__name__, getattr(error, "sqlstate", None))))
