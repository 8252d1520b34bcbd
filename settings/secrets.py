"""The laptop-side secret store: one age-encrypted file per droplet, filled by an add-only generator.

The store is what a lost droplet is rebuilt from. It lies in ``$MEMORY_DROPLET_CONFIG``
(``~/.config/memory-droplet`` by default) as ``<host>.secrets.age``, encrypted to the identity in
``identity.txt`` beside it; keep a copy of both somewhere else.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets as random_source
import stat
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import bcrypt
import pyrage

from settings.cloudflare import NO_TOKEN, token_ids


class SecretsError(Exception):
    """The secret store cannot be used; the text says why and what to do."""


class Secret:
    """A secret value that refuses to be printed or formatted; ``reveal()`` gives the text."""

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self._value = value

    def reveal(self) -> str:
        """The secret text, for a place that never shows it."""
        return self._value

    def __repr__(self) -> str:
        return f"<secret {self.name}>"

    def __str__(self) -> NoReturn:
        raise TypeError(f"the secret {self.name} may not become text; use .reveal() where it is safe")

    def __format__(self, _spec: str) -> NoReturn:
        raise TypeError(f"the secret {self.name} may not be formatted; use .reveal() where it is safe")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and random_source.compare_digest(
            self._value.encode(), other._value.encode()
        )

    def __hash__(self) -> int:
        return hash((self.name, self._value))


def _password(length: int = 40) -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(random_source.choice(alphabet) for _ in range(length))


def _typed_password() -> str:
    """A password that people type: long, and with every kind of character that sign-in forms ask for."""
    return f"{_password(20)}-{random_source.randbelow(10)}aA"


@dataclass(frozen=True)
class Declared:
    """A secret the stack uses: what for, and how it is made when the user gave none."""

    purpose: str
    make: Callable[[Mapping[str, str]], str] | None
    minimum_length: int = 24


DECLARED: Mapping[str, Declared] = {
    "postgres_superuser_password": Declared("Postgres role postgres", lambda _: _password()),
    "postgres_memory_password": Declared("Postgres role memory", lambda _: _password()),
    "postgres_n8n_password": Declared("Postgres role n8n", lambda _: _password()),
    "postgres_openwebui_password": Declared("Postgres role openwebui", lambda _: _password()),
    "qdrant_api_key": Declared("Qdrant, read and write", lambda _: _password()),
    "qdrant_read_only_api_key": Declared("Qdrant, read only", lambda _: _password()),
    "memory_service_token": Declared("n8n's calls to the memory service", lambda _: _password()),
    "memory_service_admin_token": Declared("operators' calls to the memory service", lambda _: _password()),
    "webhook_token": Declared("Open WebUI's calls to the n8n webhooks", lambda _: _password()),
    "n8n_encryption_key": Declared("n8n's credentials at rest", lambda _: _password()),
    "n8n_owner_password": Declared("n8n's owner account", lambda _: _typed_password(), 12),
    "n8n_owner_password_hash": Declared(
        "n8n's owner account, as n8n wants it",
        lambda known: bcrypt.hashpw(known["n8n_owner_password"].encode(), bcrypt.gensalt(10)).decode(),
    ),
    "openwebui_secret_key": Declared("Open WebUI's sessions and valves at rest", lambda _: _password(48)),
    "openwebui_admin_password": Declared("Open WebUI's admin account", lambda _: _typed_password(), 12),
    "openwebui_client_password": Declared("the declared clients' accounts", lambda _: _typed_password(), 12),
    "llm_api_key": Declared("the chat and extraction provider", None, 8),
    "cloudflare_tunnel_token": Declared("cloudflared, to run the tunnel", None, 32),
    "cloudflare_api_token": Declared("`drill tunnel` on the laptop; never reaches the droplet", None),
    "embedding_api_key": Declared("the embedding provider", None, 8),
}

_COMMON = ("changeme", "change-me", "password", "secret", "default", "example", "admin", "12345", "qwerty")


def config_dir() -> Path:
    """The folder of the stores and of the identity that opens them."""
    given = os.environ.get("MEMORY_DROPLET_CONFIG")
    return Path(given) if given else Path.home() / ".config" / "memory-droplet"


def store_path(host_name: str) -> Path:
    """The encrypted file that holds a host's secrets."""
    return config_dir() / f"{host_name}.secrets.age"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is 0600 from its first byte, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _make_folder() -> None:
    config_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
    config_dir().chmod(0o700)


@contextmanager
def _locked() -> Iterator[None]:
    _make_folder()
    with (config_dir() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _identity(create: bool) -> pyrage.x25519.Identity:
    path = config_dir() / "identity.txt"
    if path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise SecretsError(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
        lines = [line for line in path.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-")]
        if len(lines) != 1:
            raise SecretsError(
                f"{path} must hold exactly one AGE-SECRET-KEY line; restore it from your copy."
            )
        return pyrage.x25519.Identity.from_str(lines[0])
    if not create:
        raise SecretsError(f"{path} is missing; restore it from your copy, or run: drill secrets init")
    if stores := sorted(config_dir().glob("*.secrets.age")):
        raise SecretsError(f"{path} is missing, and {stores[0]} cannot be opened without it; restore it.")
    identity = pyrage.x25519.Identity.generate()
    write_private(path, f"# public key: {identity.to_public()}\n{identity}\n".encode())
    return identity


def read(host_name: str) -> dict[str, str]:
    """Every stored secret of a host by name; nothing when there is no store yet.

    Raises SecretsError when the store cannot be opened.
    """
    path = store_path(host_name)
    if not path.exists():
        return {}
    try:
        return dict(json.loads(pyrage.decrypt(path.read_bytes(), [_identity(create=False)])))
    except (pyrage.DecryptError, ValueError):
        raise SecretsError(
            f"{path} cannot be opened with {config_dir() / 'identity.txt'}; restore the matching pair."
        ) from None


def _write(host_name: str, values: Mapping[str, str]) -> None:
    recipient = _identity(create=True).to_public()
    plain = json.dumps(dict(values), indent=1, sort_keys=True).encode()
    write_private(store_path(host_name), pyrage.encrypt(plain, [recipient]))
    host_secrets.cache_clear()


def _completed(known: Mapping[str, str]) -> dict[str, str]:
    """The known secrets and a fresh one for each missing one that can be made."""
    values = dict(known)
    for name, declared in DECLARED.items():
        if name not in values and declared.make is not None:
            values[name] = declared.make(values)
    return values


def no_store_yet(host_name: str) -> str | None:
    """What to ask before the first secrets of a host are made while there are those of others, or None.

    A droplet made anew at another address would get new secrets, and data restored to it could not be read.
    """
    others = sorted(path.name.removesuffix(".secrets.age") for path in config_dir().glob("*.secrets.age"))
    if not others or host_name in others:
        return None
    return (
        f"{config_dir()} holds no secrets for {host_name}, but for {', '.join(others)}. If it takes the place of one "
        f"of them, set DROPLET_NAME to that name; if it is a new one, run: drill secrets init"
    )


def init(host_name: str) -> list[str]:
    """Make every missing secret of a host and store it; a stored one is never changed.

    Returns the names that were added.
    """
    with _locked():
        known = read(host_name)
        values = _completed(known)
        added = [name for name in values if name not in known]
        if added:
            _write(host_name, values)
        return added


def put(host_name: str, name: str, value: str) -> None:
    """Store a secret that the user gives, replacing the stored one; raises SecretsError if it is weak."""
    if name not in DECLARED:
        raise SecretsError(f"'{name}' is not a secret of this stack; `drill secrets check` lists them.")
    if sentence := weakness(name, value):
        raise SecretsError(sentence)
    with _locked():
        values = {**read(host_name), name: value}
        if name == "n8n_owner_password":
            values.pop("n8n_owner_password_hash", None)
        _write(host_name, _completed(values))


def weakness(name: str, value: str) -> str | None:
    """Why a value is too weak for a secret, in one sentence, or None."""
    least = DECLARED[name].minimum_length
    if len(value) < least:
        return f"The secret {name} is too short: {len(value)} characters, at least {least} are needed."
    if value != value.strip() or any(ord(c) < 32 for c in value):
        return f"The secret {name} holds white space at an end or a control character."
    if name == "cloudflare_tunnel_token" and token_ids(value) is None:
        return NO_TOKEN
    if any(word in value.lower() for word in _COMMON) and len(value) < 32:
        return f"The secret {name} contains a common word such as 'changeme' or 'password'; use a random one."
    if len(set(value)) < 6:
        return f"The secret {name} repeats the same few characters; use a random one."
    return None


def check(host_name: str) -> list[str]:
    """What is wrong with a host's store, one sentence each; nothing when it is complete and strong."""
    known = read(host_name)
    problems = [
        f"The secret {name} ({declared.purpose}) is missing; run: drill secrets init"
        for name, declared in DECLARED.items()
        if name not in known and declared.make is not None
    ]
    for name, value in known.items():
        if name not in DECLARED:
            problems.append(f"The secret {name} is stored but nothing uses it.")
        elif sentence := weakness(name, value):
            problems.append(sentence)
    hashed, plain = known.get("n8n_owner_password_hash"), known.get("n8n_owner_password")
    if hashed and plain and not bcrypt.checkpw(plain.encode(), hashed.encode()):
        problems.append("The secret n8n_owner_password_hash does not belong to n8n_owner_password.")
    return problems


class HostSecrets(Mapping[str, Secret]):
    """A host's secrets by name; one that the user may leave out and did is empty."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Secret:
        if name not in DECLARED:
            raise KeyError(f"{name} is not declared in settings/secrets.py")
        return Secret(name, self._values.get(name, ""))

    def __iter__(self) -> Iterator[str]:
        return iter(DECLARED)

    def __len__(self) -> int:
        return len(DECLARED)

    def __repr__(self) -> str:
        return f"<{len(self._values)} secrets>"


@cache
def host_secrets(host_name: str) -> HostSecrets:
    """A host's secrets for a deploy.

    Secrets that are not stored yet are made up for this process only: a dry run of a host that
    never was deployed writes nothing, and a deploy calls ``init`` first.
    """
    return HostSecrets(_completed(read(host_name)))


def revealed(host_name: str) -> dict[str, list[str]]:
    """Every stored value by name with the forms it could leak in (plain, base64, URL-safe base64)."""
    forms: dict[str, list[str]] = {}
    for name, value in read(host_name).items():
        raw = value.encode()
        encodings = [base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
        forms[name] = list(dict.fromkeys([value, *encodings]))
    return forms
