"""A Qdrant collection as declared: created, indexed and tuned, never recreated."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from operations.announcing import announce_diff
from operations.facts import FileStates, HttpObject
from operations.http_probe import http_request
from operations.qdrant_plan import WrongVectors, plan
from operations.service_plan import stamp_path
from operations.shell import refusal
from settings import names


@operation()
def qdrant_collection(
    url: str,
    collection: str,
    declared: Mapping[str, Any],
    indexes: Mapping[str, Mapping[str, Any]],
    header_file: str,
) -> Generator[PyinfraCommand, None, None]:
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
    answer = host.get_fact(HttpObject, url=f"{url}/collections/{collection}", header_file=header_file)
    if answer.status == 0:
        if state.is_executing:
            yield refusal(f"Qdrant does not answer at {url}; see `journalctl -u {names.unit('qdrant')}`")
            return
        stamp = stamp_path(names.unit("qdrant"))
        if host.get_fact(FileStates, paths=[stamp])[stamp].kind == "file":
            # It ran before: what a dry run has to show is the stopped unit, which `service` does.
            host.noop(f"cannot be looked at before {names.unit('qdrant')} runs again")
            return
    elif answer.status not in (200, 404):
        yield refusal(
            f"Qdrant answered GET {url}/collections/{collection} with status {answer.status}, expected 200 "
            f"or 404; check that {header_file} holds its API key"
        )
        return
    body = answer.body if isinstance(answer.body, dict) else {}
    live = body.get("result") if answer.status == 200 else None
    try:
        requests = plan(collection, declared, indexes, live if isinstance(live, dict) else None)
    except WrongVectors as error:
        if state.is_executing:
            yield refusal(str(error))
            return
        raise OperationError(f"Qdrant on {host.name}: {error}") from None
    if not requests:
        host.noop(f"collection {collection} is as declared")
        return
    announce_diff(f"Qdrant at {url}", [request.sentence for request in requests])
    for request in requests:
        yield http_request(
            request.method, f"{url}{request.path}", header_file, tolerate=False, body=dict(request.body)
        )
