"""What can go wrong, as types that callers tell apart."""

from __future__ import annotations


class MemoryServiceError(Exception):
    """The root; its text is one sentence for the person who reads it."""


class ConfigurationError(MemoryServiceError):
    """A setting is missing or wrong; the text names it."""


class NotFound(MemoryServiceError):
    """The thing that a request names does not exist (for this client)."""


class Unprocessable(MemoryServiceError):
    """A request is well-formed and asks for something impossible."""


class Conflict(MemoryServiceError):
    """A request collides with work under way."""


class StoreUnavailable(MemoryServiceError):
    """PostgreSQL cannot be reached or did not answer in time."""


class UpstreamError(MemoryServiceError):
    """An upstream (embeddings, chat, Qdrant) failed; `reason` is a short word for metrics."""

    def __init__(self, upstream: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.upstream = upstream
        self.reason = reason
