"""An embedding model that needs no provider: static word-piece vectors, averaged.

The weights (32,000 x 256 half floats) and the vocabulary come with the package `wordllama`, of which only
these two files are read: its code would import numpy and a tokenizer library, 60 MB that a 2 GB machine has
better uses for. Of the weights only the rows of a text's words are read, from the file, so that they stay in
the page cache, which the system may take back, and out of this process.

A text is cut into the pieces of the model's vocabulary by byte-pair merging within words, and the vectors
of the pieces are averaged. That is less than a transformer knows, and a thousand times cheaper. Vectors are padded with zeros to the size of the index, which leaves cosines unchanged.
"""

from __future__ import annotations

import array
import importlib.util
import json
import math
import os
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Final

from memory_service.errors import ConfigurationError

MODEL_NAME: Final = "wordllama-l2-256"
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_VOCABULARY: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_SPACE: Final = "\u2581"  # how the vocabulary writes the space before a word
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_", re.UNICODE)
_MAX_WORD: Final = 64
_MAX_WORDS: Final = 512
_CACHE: Final = 4096


def package_directory() -> Path:
    """Where `wordllama` is installed. Raises ConfigurationError when it is not."""
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the embedded embedding model is not installed: install the package wordllama, or set "
            "MEMORY_EMBEDDING_BASE_URL to an OpenAI-compatible API"
        )
    return Path(spec.origin).parent


def _vocabulary(text: str) -> dict[str, int]:
    """The vocabulary of a tokenizer file; its other nine tenths are not even parsed."""
    start = text.index("{", text.index('"vocab"'))
    pieces: dict[str, int] = json.JSONDecoder().raw_decode(text, start)[0]
    return pieces


class StaticModel:
    """The model; `embed` maps a text to a unit vector of `size` numbers."""

    def __init__(self, size: int, directory: Path | None = None) -> None:
        root = directory or package_directory()
        self._pieces = _vocabulary((root / _VOCABULARY).read_text(encoding="utf-8"))
        self._file = (root / _WEIGHTS).open("rb", buffering=0)
        (header_length,) = struct.unpack("<Q", self._file.read(8))
        tensor = json.loads(self._file.read(header_length))["embedding.weight"]
        rows, self._width = tensor["shape"]
        if tensor["dtype"] != "F16" or rows < len(self._pieces) or self._width > size:
            raise ConfigurationError(
                f"the weights in {root / _WEIGHTS} have type {tensor['dtype']} and shape {tensor['shape']}; "
                f"expected F16, {len(self._pieces)} rows and at most {size} columns"
            )
        self._start = 8 + header_length + int(tensor["data_offsets"][0])
        self._row = struct.Struct(f"<{self._width}e")
        self._padding = [0.0] * (size - self._width)
        self._words: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def tokens(self, word: str) -> tuple[int, ...]:
        """The piece numbers of one word (with its leading space)."""
        known = self._words.get(word)
        if known is not None:
            self._words.move_to_end(word)
            return known
        found = tuple(self._merge(word))
        self._words[word] = found
        if len(self._words) > _CACHE:
            self._words.popitem(last=False)
        return found

    def _merge(self, word: str) -> list[int]:
        """Byte-pair merging: again and again the pair whose union has the lowest number."""
        pieces = list(word)
        numbers = self._pieces
        while len(pieces) > 1:
            best, where = 1 << 30, -1
            for index in range(len(pieces) - 1):
                number = numbers.get(pieces[index] + pieces[index + 1])
                if number is not None and number < best:
                    best, where = number, index
            if where < 0:
                break
            pieces[where : where + 2] = [pieces[where] + pieces[where + 1]]
        found: list[int] = []
        for piece in pieces:
            number = numbers.get(piece)
            if number is not None:
                found.append(number)
            else:  # a character that the vocabulary lacks is written as its bytes
                found.extend(numbers[f"<0x{byte:02X}>"] for byte in piece.encode())
        return found

    def embed(self, text: str) -> list[float]:
        """The unit vector of a text; of a text without words, the unit vector of an empty sentence."""
        total = [0.0] * self._width
        row, start, size, file = self._row, self._start, self._row.size, self._file.fileno()
        counts: dict[int, int] = {}
        for word in _WORD.findall(text)[:_MAX_WORDS]:
            spaced = _SPACE + word[:_MAX_WORD] if word[0].isalnum() else word
            for number in self.tokens(spaced):
                counts[number] = counts.get(number, 0) + 1
        if not counts:
            counts[self._pieces[_SPACE]] = 1
        for number, count in counts.items():
            values = row.unpack(os.pread(file, size, start + number * size))
            total = [old + count * new for old, new in zip(total, values, strict=True)]
        norm = math.sqrt(sum(value * value for value in total)) or 1.0
        # Through single precision, so that a vector is the same before and after it was stored.
        return [*array.array("f", (value / norm for value in total)), *self._padding]
