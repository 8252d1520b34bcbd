"""A Qdrant collection as declared: created, indexed and tuned, never recreated."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyinfra import host, state
from pyinfra.api import OperationError, QuoteString, StringCommand, operation

from operations.http import HttpJson
from operations.qdrant_plan import WrongVectors, plan


@operation()
def qdrant_collection(
    url: str,
    collection: str,
    declared: Mapping[str, Any],
    indexes: Mapping[str, Mapping[str, Any]],
    header_file: str,
) -> Generator[StringCommand, None, None]:
    """Bring a collection and its payload indexes to their declaration.

    + url: the base URL as seen on the host, e.g. ``http://127.0.0.1:6333``
    + declared: body of ``PUT /collections/{collection}``; vectors must hold ``size`` and ``distance``
    + indexes: payload field -> index schema
    + header_file: file on the host with the ``api-key:`` header

    Vectors of another size or distance on a live collection end the run before any change.

    Example::

        qdrant_collection(
            name="Qdrant: collection", url="http://127.0.0.1:6333", collection="memory_vectors",
            declared={"vectors": {"size": 1536, "distance": "Cosine"}},
            indexes={"client_id": {"type": "integer"}}, header_file="/root/header",
        )
    """
    found = host.get_fact(HttpJson, url=f"{url}/collections/{collection}", header_file=header_file)
    if found.status not in (0, 200, 404):
        raise OperationError(
            f"Qdrant answered {found.status} when asked for {collection}; check its API key in {header_file}."
        )
    if found.status == 0 and state.is_executing:
        raise OperationError(f"Qdrant does not answer at {url}; see: journalctl -u droplet-qdrant")
    live = found.body["result"] if found.status == 200 else None
    try:
        requests = plan(collection, declared, indexes, live)
    except WrongVectors as error:
        raise OperationError(f"Qdrant: {error}") from None
    if not requests:
        host.noop(f"collection {collection} is as declared")
        return
    for request in requests:
        yield StringCommand(
            "curl -sS --fail-with-body -o /dev/null -X",
            request.method,
            "-H",
            QuoteString(f"@{header_file}"),
            "-H 'Content-Type: application/json' --data-binary @-",
            QuoteString(f"{url}{request.path}"),
            _stdin=request.payload(),
        )
