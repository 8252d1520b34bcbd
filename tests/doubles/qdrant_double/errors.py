"""Refusals, with the status code and the wording of the real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ApiError(Exception):
    """A request that is answered with an error envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def bad_request(message: str) -> ApiError:
    """The caller sent something that cannot be done (400)."""
    return ApiError(400, f"Wrong input: {message}")


def missing_collection(name: str) -> ApiError:
    """There is no such collection or alias (404)."""
    return ApiError(404, f"Not found: Collection `{name}` doesn't exist!")


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what the engine refuses into an answer.

    The engine raises a bare ``Exception`` whose text says whether the storage failed or the request was
    wrong (qdrant-edge 0.9.0), so the text is all there is to decide by.
    """
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        text = str(error)
        if text.startswith("Service "):
            raise ApiError(500, text) from error
        raise bad_request(text) from error
