"""How other services are called: with a time limit, a breaker and a budget for retries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from memory_service import metrics
from memory_service.errors import UpstreamError

log = logging.getLogger(__name__)
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass
class Breaker:
    """Stops asking an upstream that keeps failing; after a pause one request tries again.

    :ivar threshold: failures in a row that open it
    :ivar pause_s: first pause; doubled up to `longest_s` while the trial keeps failing
    """

    upstream: str
    threshold: int = 5
    pause_s: float = 2.0
    longest_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    opened_at: float | None = None
    current_pause_s: float = field(default=0.0)
    trial: bool = False

    def allow(self) -> bool:
        """Whether a request may go out now."""
        if self.opened_at is None:
            return True
        if self.clock() - self.opened_at < self.current_pause_s or self.trial:
            return False
        self.trial = True
        return True

    def succeeded(self) -> None:
        """An answer came: everything is as it should be."""
        self.failures, self.opened_at, self.current_pause_s, self.trial = 0, None, 0.0, False
        metrics.BREAKER.labels(self.upstream).set(0)

    def failed(self) -> None:
        """No usable answer came."""
        self.failures += 1
        if self.trial or (self.opened_at is None and self.failures >= self.threshold):
            self.current_pause_s = min(self.longest_s, max(self.pause_s, self.current_pause_s * 2))
            self.opened_at = self.clock()
            metrics.BREAKER.labels(self.upstream).set(1)
        self.trial = False

    def abandoned(self) -> None:
        """The request was given up by its caller, which says nothing about the upstream."""
        self.trial = False

    @property
    def open(self) -> bool:
        """Whether requests are refused now (for reports)."""
        return self.opened_at is not None


@dataclass
class RetryBudget:
    """Retries may make up a tenth of the traffic: an outage is not answered with more load."""

    share: float = 0.1
    most: float = 10.0
    tokens: float = 3.0

    def earned(self) -> None:
        """A request went out."""
        self.tokens = min(self.most, self.tokens + self.share)

    def spend(self) -> bool:
        """Takes one retry if there is one left."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Upstream:
    """One HTTP service with its breaker."""

    def __init__(
        self,
        name: str,
        base_url: str,
        headers: dict[str, str],
        timeout_s: float,
        connections: int = 16,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.breaker = breaker or Breaker(name)
        self.retries = RetryBudget()
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, pool=timeout_s),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        body: object | None = None,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> Any:
        """The decoded JSON of a 2xx answer.

        `patient` is background work, which makes its own pauses: it goes out while the breaker is open too. An
        upstream that is too slow for a chat may well be quick enough for it.

        Raises UpstreamError with reason `open`, `timeout`, `connection`, `status_NNN` or `garbage`. Answers
        in 400..428 but 408 and 425 do not count against the breaker: the upstream works, the request is bad.
        """
        if not patient and not self.breaker.allow():
            raise UpstreamError(self.name, "open", f"{self.name} failed too often and is not asked for now")
        self.retries.earned()
        answered = False
        try:
            value = await self._call(method, path, body, timeout_s)
            answered = True
            self.breaker.succeeded()
            return value
        except UpstreamError as error:
            answered = True
            metrics.UPSTREAM_ERRORS.labels(self.name, error.reason).inc()
            if is_lasting(error):
                self.breaker.succeeded()
            else:
                self.breaker.failed()
            raise
        finally:
            if not answered:  # cancelled by a deadline of the caller's: the upstream was too slow for it
                metrics.UPSTREAM_ERRORS.labels(self.name, "timeout").inc()
                self.breaker.failed()

    async def _call(self, method: str, path: str, body: object | None, timeout_s: float | None) -> Any:
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        try:
            response = await self._client.request(method, path, json=body, **extra)
        except httpx.TimeoutException:
            raise UpstreamError(self.name, "timeout", f"{self.name} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = f"{self.name} cannot be reached: {type(error).__name__}"
            raise UpstreamError(self.name, "connection", text) from error
        if not response.is_success:
            text = f"{self.name} answered {response.status_code}"
            raise UpstreamError(self.name, f"status_{response.status_code}", text)
        if len(response.content) > MAX_ANSWER_BYTES:
            raise UpstreamError(self.name, "garbage", f"{self.name} answered {len(response.content)} bytes")
        try:
            return response.json()
        except ValueError:
            raise UpstreamError(
                self.name, "garbage", f"{self.name} answered something that is not JSON"
            ) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def is_lasting(error: UpstreamError) -> bool:
    """Whether the same request would fail again however often it is sent."""
    if not error.reason.startswith("status_"):
        return False
    status = int(error.reason.removeprefix("status_"))
    return 400 <= status < 429 and status not in (401, 402, 403, 408, 425)
