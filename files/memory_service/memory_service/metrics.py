"""What the service tells Prometheus. No label ever names a client."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_BUCKETS = (
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    30.0,
)

REQUESTS: Final = Histogram(
    "memory_request_seconds", "Time to answer", ["route", "outcome"], buckets=_BUCKETS, registry=REGISTRY
)
STAGES: Final = Histogram(
    "memory_stage_seconds", "Time of a stage", ["stage"], buckets=_BUCKETS, registry=REGISTRY
)
DEGRADED: Final = Counter(
    "memory_degraded_total", "Answers that had to do without something", ["reason"], registry=REGISTRY
)
UPSTREAM_ERRORS: Final = Counter(
    "memory_upstream_errors_total",
    "Failures of what the service depends on",
    ["upstream", "reason"],
    registry=REGISTRY,
)
BREAKER: Final = Gauge(
    "memory_breaker_open", "1 while an upstream is not asked", ["upstream"], registry=REGISTRY
)
TOKENS: Final = Counter("memory_tokens_total", "Tokens used at providers", ["purpose"], registry=REGISTRY)
FACTS: Final = Counter("memory_facts_total", "What became of extracted facts", ["event"], registry=REGISTRY)
REDACTIONS: Final = Counter("memory_redactions_total", "Secrets and numbers removed", registry=REGISTRY)
QUARANTINED: Final = Counter("memory_quarantined_total", "Texts kept but never rendered", registry=REGISTRY)
QUEUE: Final = Gauge("memory_queue_depth", "Jobs that wait", ["kind"], registry=REGISTRY)
QUEUE_AGE: Final = Gauge("memory_queue_oldest_seconds", "Age of the oldest waiting job", registry=REGISTRY)
OUTBOX: Final = Gauge("memory_outbox_depth", "Vectors that Qdrant does not have yet", registry=REGISTRY)
OUTBOX_AGE: Final = Gauge("memory_outbox_oldest_seconds", "Age of the oldest of them", registry=REGISTRY)
CLEANED: Final = Counter(
    "memory_cleanup_rows_total", "Rows removed by cleanups", ["table"], registry=REGISTRY
)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
