"""SCRAM-SHA-256 verifiers as Postgres stores them, so that no password is sent to the server.

Format: ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`` (Postgres documentation,
catalog pg_authid), keys as in RFC 5802, the password prepared as in RFC 4013.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

ITERATIONS: Final = 4096  # Postgres' scram_iterations; a higher number slows down every login

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """The verifier of a password; the salt is 16 random bytes unless given."""
    if not password or "\0" in password:
        raise ValueError("a Postgres password must not be empty or hold a NUL byte")
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def prepared(password: str) -> str:
    """SASLprep; like Postgres' client, a password that it prohibits is used as it is."""
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(check(char) for char in normal for check in _PROHIBITED):
        return password
    if any(stringprep.in_table_d1(char) for char in normal):
        outer_are_right = stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1])
        if not outer_are_right or any(stringprep.in_table_d2(char) for char in normal):
            return password
    return normal


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
