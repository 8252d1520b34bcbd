"""The service's settings: environment variables `MEMORY_*`, and secrets as files.

Secrets are read from the directory that systemd hands over ($CREDENTIALS_DIRECTORY, from LoadCredential=),
one file each, and never from a variable: variables are seen in process lists and inherited by children.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from memory_service.errors import ConfigurationError

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=600)]
Weight = Annotated[float, Field(ge=0, le=1)]

VECTOR_SIZE = 1536
PASSWORD_PLACEHOLDERS = frozenset({"changeme", "password", "secret", "default", "token"})


class Settings(BaseSettings):
    """Everything that can be set, with its default."""

    model_config = SettingsConfigDict(env_prefix="MEMORY_", extra="ignore")

    # -- where it listens when systemd hands over no socket
    listen_host: str = "127.0.0.1"
    listen_port: Port = 8765

    # -- PostgreSQL
    postgres_host: str = "127.0.0.1"
    postgres_port: Port = 5432
    postgres_database: str = "n8ndb"
    postgres_user: str = "memory"
    postgres_connections: Annotated[int, Field(ge=2, le=50)] = 8
    postgres_wait_s: Seconds = 0.2

    # -- Qdrant; an empty URL means: search in PostgreSQL only
    qdrant_url: str = "http://127.0.0.1:6333"
    qdrant_collection: str = "memory_vectors"
    qdrant_timeout_s: Seconds = 0.4
    qdrant_shard_number: Annotated[int, Field(ge=1)] = 1
    qdrant_replication_factor: Annotated[int, Field(ge=1)] = 1

    # -- providers: any OpenAI-compatible API, base URL up to and including /v1
    llm_base_url: str = ""
    llm_model: str = ""
    llm_timeout_s: Seconds = 30.0
    llm_daily_tokens: Annotated[int, Field(ge=0)] = 2_000_000
    embedding_base_url: str = ""
    embedding_model: str = ""
    embedding_timeout_s: Seconds = 0.7
    embedding_daily_tokens: Annotated[int, Field(ge=0)] = 20_000_000

    # -- time
    assemble_deadline_s: Seconds = 1.2
    writeback_deadline_s: Seconds = 2.0
    drain_s: Seconds = 10.0

    # -- what is remembered and recalled
    ttl_days: Annotated[int, Field(ge=1, le=36500)] | None = 365
    context_tokens: Annotated[int, Field(ge=100, le=32_000)] = 1_500
    chunks: Annotated[int, Field(ge=1, le=100)] = 12
    episodes: Annotated[int, Field(ge=0, le=50)] = 5
    dense_weight: Weight = 0.25
    gate_lexical: Weight = 0.2
    gate_dense: Weight = 0.55

    # -- limits
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    max_depth: Annotated[int, Field(ge=4, le=200)] = 32
    cleanup_budget_s: Seconds = 25.0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # -- secrets, from files
    service_token: SecretStr = SecretStr("")
    admin_token: SecretStr = SecretStr("")
    postgres_password: SecretStr = SecretStr("")
    qdrant_api_key: SecretStr = SecretStr("")
    llm_api_key: SecretStr = SecretStr("")
    embedding_api_key: SecretStr = SecretStr("")

    @field_validator("qdrant_url", "llm_base_url", "embedding_base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"must start with http:// or https://, not {value[:40]!r}")
        return value.rstrip("/")


SECRET_NAMES = (
    "service_token",
    "admin_token",
    "postgres_password",
    "qdrant_api_key",
    "llm_api_key",
    "embedding_api_key",
)


def read_secrets(directory: Path) -> dict[str, SecretStr]:
    """The secrets that lie in a directory, by name; a missing file is an empty secret."""
    found: dict[str, SecretStr] = {}
    for name in SECRET_NAMES:
        path = directory / name
        if path.is_file():
            found[name] = SecretStr(path.read_text(encoding="utf-8").strip())
    return found


def load() -> Settings:
    """Settings from the environment and $CREDENTIALS_DIRECTORY.

    Raises ConfigurationError, one sentence for each mistake and never with a secret in it.
    """
    for name in SECRET_NAMES:
        if f"MEMORY_{name.upper()}" in os.environ:
            raise ConfigurationError(
                f"MEMORY_{name.upper()} is set in the environment, where other processes can read it: put the "
                f"secret into the file $CREDENTIALS_DIRECTORY/{name} instead"
            )
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    secrets = read_secrets(Path(directory)) if directory else {}
    try:
        settings = Settings(**secrets)  # type: ignore[arg-type]  # values are validated by pydantic
    except ValueError as error:
        details = getattr(error, "errors", None)
        if details is None:
            raise ConfigurationError(str(error)) from error
        sentences = [
            f"MEMORY_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in details(include_input=False, include_url=False)
        ]
        raise ConfigurationError("; ".join(sentences)) from None
    for name in ("service_token", "admin_token"):
        value: SecretStr = getattr(settings, name)
        text = value.get_secret_value()
        if len(text) < 16 or text.lower() in PASSWORD_PLACEHOLDERS:
            raise ConfigurationError(
                f"the secret {name} has {len(text)} characters and needs at least 16: put one into "
                f"$CREDENTIALS_DIRECTORY/{name}"
            )
    if settings.service_token.get_secret_value() == settings.admin_token.get_secret_value():
        raise ConfigurationError("service_token and admin_token are the same: generate a second one")
    if settings.llm_base_url and not settings.llm_model:
        raise ConfigurationError("MEMORY_LLM_BASE_URL is set but MEMORY_LLM_MODEL is empty: name a model")
    if settings.embedding_base_url and not settings.embedding_model:
        raise ConfigurationError(
            "MEMORY_EMBEDDING_BASE_URL is set but MEMORY_EMBEDDING_MODEL is empty: name a model"
        )
    return settings
