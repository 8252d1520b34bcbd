"""What comes in and what goes out: the contract, from which the OpenAPI document is made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints

from memory_service.conflict import normalise_key

MAX_TEXT = 200_000
# Ids below this are for callers that bring their own number; the service gives out the ones above.
FIRST_OWN_ID = 1_000_000

Name = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
ClientId = Annotated[
    Annotated[int, Field(ge=1, le=2_147_483_647, strict=True)] | Name,
    Field(
        union_mode="left_to_right",
        description="The number of a client, or the id that Open WebUI gives its user",
        examples=[1, "7c0e9f6e-3c1b-4b53-9a55-6d1f2f3d9b11"],
    ),
]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
FactKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9_.]{1,64}$")]


def _lenient_time(value: object) -> object:
    """n8n sends an expression's empty result as an empty text."""
    return None if value == "" else value


Moment = Annotated[datetime | None, BeforeValidator(_lenient_time)]


def _optional_name(value: object) -> object:
    """Callers of the API have an empty chat id and no session: both mean none."""
    return None if value == "" else value


OptionalName = Annotated[Name | None, BeforeValidator(_optional_name)]


class Request(BaseModel):
    """Callers may send more than is read here: the webhooks pass on what they were sent."""

    model_config = ConfigDict(extra="ignore")


class AssembleRequest(Request):
    """What a chat turn asks of the memory."""

    client_id: ClientId
    query: Text
    timestamp: Moment = None
    chat_id: OptionalName = None
    message_id: OptionalName = None
    session_id: OptionalName = None
    max_tokens: Annotated[int, Field(ge=100, le=32_000)] | None = None


class Profile(BaseModel):
    """Who the client is."""

    name: str | None
    tags: list[str]
    metadata: dict[str, JsonValue]


class Chunk(BaseModel):
    """A remembered text that has to do with the query."""

    id: str
    content: str
    score: float
    source_type: str
    role: str
    occurred_at: datetime
    lexical: float
    dense: float


class EpisodeOut(BaseModel):
    """A turn that was written back."""

    id: int
    summary: str
    rating: int | None
    created_at: datetime


class FactOut(BaseModel):
    """A belief about the client."""

    key: str
    value: str
    confidence: float
    source: str
    valid_from: datetime
    last_seen_at: datetime


class StateOut(BaseModel):
    """One entry of a session's working state."""

    session_id: str
    key: str
    value: JsonValue
    expires_at: datetime


class AssembleResponse(BaseModel):
    """The memory for a turn. `degraded` names what had to be done without; the answer is usable anyway."""

    client_id: int | str
    profile: Profile
    similar_chunks: list[Chunk]
    recent_episodes: list[EpisodeOut]
    facts: list[FactOut]
    working_state: list[StateOut]
    context: str = Field(
        description="Ready to inject: fenced, within the token budget, empty if nothing fits"
    )
    context_tokens: int
    degraded: list[str]
    request_id: str
    timestamp: datetime
    execution_time_ms: float


class Message(Request):
    """One message of a conversation."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    content: Text | list[dict[str, JsonValue]] | None = None

    def text(self) -> str:
        """The text of the content, whose parts may be of several kinds."""
        if isinstance(self.content, str):
            return self.content
        parts = [part.get("text") for part in self.content or [] if part.get("type") == "text"]
        return "\n".join(part for part in parts if isinstance(part, str))


class WritebackRequest(Request):
    """A finished turn: the conversation up to the user's message, or this message alone, and the answer to it."""

    client_id: ClientId
    conversation: Annotated[list[Message], Field(min_length=1, max_length=500)]
    response: Text | None = None
    timestamp: Moment = None
    chat_id: OptionalName = None
    message_id: OptionalName = None
    user_message_id: OptionalName = None
    session_id: OptionalName = None
    duration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class WritebackResponse(BaseModel):
    """What became of the turn. `queued`: it is kept; facts follow from the queue."""

    success: Literal[True] = True
    episode_id: int
    facts_upserted: int
    state_saved: bool
    timestamp: datetime
    queued: bool
    job_id: int | None


class CleanupRequest(Request):
    """How to clean up."""

    dry_run: bool = False
    budget_seconds: Annotated[float, Field(gt=0, le=300)] | None = None


class CleanupResponse(BaseModel):
    """What was removed (or, in a dry run, would be)."""

    dry_run: bool
    complete: bool
    removed: dict[str, int]
    expired_left: int
    qdrant: Literal["cleaned", "unavailable", "unused", "skipped"]
    execution_time_ms: float
    timestamp: datetime


class ClientIn(Request):
    """A client's profile as an operator sets it; what is left out stays."""

    full_name: Annotated[str, StringConstraints(max_length=255)] | None = None
    email: Annotated[str, StringConstraints(max_length=320)] | None = None
    tags: Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(max_length=64)] | None = (
        None
    )
    metadata: dict[str, JsonValue] | None = None


class ClientOut(BaseModel):
    """A client's profile."""

    id: int
    user_id: str
    full_name: str | None
    email: str | None
    tags: list[str]
    metadata: dict[str, JsonValue]
    created_at: datetime
    updated_at: datetime


class FactIn(Request):
    """A fact as an operator sets it."""

    value: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.95


class FactVersion(BaseModel):
    """One entry of a fact's history."""

    value: str
    confidence: float
    status: Literal["active", "superseded", "retracted", "contested"]
    source: str
    evidence: str | None
    episode_id: int | None
    valid_from: datetime
    valid_to: datetime | None
    recorded_at: datetime
    superseded_at: datetime | None


class StateIn(Request):
    """A value of the working state."""

    value: JsonValue
    ttl_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = 86_400


class EpisodeDetail(EpisodeOut):
    """An episode with its messages."""

    tags: list[str]
    message_count: int
    duration_seconds: int | None
    session_id: str | None
    messages: list[Chunk]


class MemoryIn(Request):
    """A text to remember that is no message of a chat."""

    content: Annotated[str, StringConstraints(min_length=1, max_length=60_000)]
    source_type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = "note"
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    ttl_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class MemoryOut(BaseModel):
    """A remembered text."""

    id: str
    stored: bool


class SearchRequest(Request):
    """A search over a client's memories."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=8_000)]
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class SearchResponse(BaseModel):
    """What was found."""

    results: list[Chunk]
    degraded: list[str]


class RatingIn(Request):
    """How good a turn was."""

    client_id: ClientId
    rating: Annotated[int, Field(ge=1, le=5, strict=True)]


class ForgetIn(Request):
    """Forgetting cannot be undone: the client's id is said twice, in the path and here."""

    confirm: ClientId
    dry_run: bool = False


class ForgetResponse(BaseModel):
    """How much of a client was removed from each store."""

    client_id: int
    dry_run: bool
    postgres: dict[str, int]
    qdrant: int | None = Field(description="Points removed; null when Qdrant could not confirm yet")
    qdrant_pending: bool


class JobOut(BaseModel):
    """A piece of work in the queue."""

    id: int
    kind: str
    status: Literal["queued", "running", "done", "dead"]
    attempts: int
    last_error: str | None
    result: dict[str, Any] | None
    run_at: datetime
    created_at: datetime
    updated_at: datetime


class Accepted(BaseModel):
    """Work that goes on in the queue."""

    job_id: int
    status: str


class Requeued(BaseModel):
    """How many jobs are tried once more."""

    requeued: int


class Problem(BaseModel):
    """What went wrong, as a word for programs and a sentence for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


class Readiness(BaseModel):
    """Whether requests can be served, and from what."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, str]


def fact_key(value: str) -> str:
    """The stored spelling of a key in a path."""
    return normalise_key(value)
