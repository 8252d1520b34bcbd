"""From text to vector: a provider's API or the embedded model, with a cache in front."""

from __future__ import annotations

import asyncio
import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from memory_service.errors import UpstreamError
from memory_service.static_embedding import MODEL_NAME, StaticModel
from memory_service.upstream import Upstream

MAX_CHARACTERS = 8_000
BATCH = 64
_CACHE = 512


class Embedder(Protocol):
    """What the rest of the service needs to know of a model."""

    model: str
    local: bool

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Unit vectors of the index's size, one for each text. Raises UpstreamError."""
        ...

    async def close(self) -> None:
        """Gives back what is held."""
        ...


class StaticEmbedder:
    """The embedded model: no network, half a millisecond for a sentence."""

    local = True
    model = MODEL_NAME

    def __init__(self, size: int) -> None:
        self._model = StaticModel(size)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See Embedder. Long lists give the event loop a turn in between."""
        vectors = []
        for text in texts:
            vectors.append(self._model.embed(text))
            if len(vectors) % 16 == 0:
                await asyncio.sleep(0)
        return vectors

    async def close(self) -> None:
        """Nothing is held that needs closing."""


class ApiEmbedder:
    """A provider's `/embeddings`."""

    local = False

    def __init__(
        self,
        upstream: Upstream,
        model: str,
        size: int,
    ) -> None:
        self._upstream = upstream
        self.model = model
        self._size = size
        # Told the tokens of every answer; raises UpstreamError when the day's budget is used up.
        self.spend: Callable[[int], None] | None = None
        self._cache: OrderedDict[bytes, array[float]] = OrderedDict()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See Embedder. Texts seen lately are not sent again."""
        keys = [hashlib.sha256(text[:MAX_CHARACTERS].encode()).digest() for text in texts]
        found: dict[bytes, array[float]] = {}
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            known = self._cache.get(key)
            if known is None:
                missing[key] = text[:MAX_CHARACTERS] or " "
            else:
                self._cache.move_to_end(key)
                found[key] = known
        wanted = list(missing.items())
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            vectors = await self._ask([text for _, text in part])
            for (key, _), vector in zip(part, vectors, strict=True):
                found[key] = self._cache[key] = vector
        while len(self._cache) > _CACHE:
            self._cache.popitem(last=False)
        return [list(found[key]) for key in keys]

    async def _ask(self, texts: list[str]) -> list[array[float]]:
        if self.spend is not None:
            self.spend(0)
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        answer = await self._upstream.call("POST", "/embeddings", body)
        try:
            data = sorted(answer["data"], key=lambda item: item["index"])
            vectors = [unit(item["embedding"], self._size) for item in data]
            tokens = int((answer.get("usage") or {}).get("total_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._upstream.breaker.failed()
            text = f"{self._upstream.name} answered JSON of an unexpected shape: {error}"
            raise UpstreamError(self._upstream.name, "garbage", text) from None
        if len(vectors) != len(texts):
            text = f"{self._upstream.name} answered {len(vectors)} vectors for {len(texts)} texts"
            raise UpstreamError(self._upstream.name, "garbage", text)
        if self.spend is not None:
            self.spend(tokens)
        return vectors

    async def close(self) -> None:
        """Closes the connections to the provider."""
        await self._upstream.close()


def unit(values: object, size: int) -> array[float]:
    """A vector of length one and of the index's size, zero-padded.

    Raises ValueError for anything but finite numbers, for more than `size` of them, and for all zeros.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= size:
        raise ValueError(f"an embedding must be a list of 1 to {size} numbers")
    numbers = [float(value) for value in values]
    norm = math.sqrt(sum(value * value for value in numbers))
    if not math.isfinite(norm) or norm == 0.0:
        raise ValueError("an embedding must have a finite length above zero")
    padded = array("f", (value / norm for value in numbers))
    padded.extend([0.0] * (size - len(numbers)))
    return padded


def literal(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in vector) + "]"
