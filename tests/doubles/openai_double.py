"""A double of an OpenAI-compatible API: chat, embeddings and models, deterministic and without a model.

It lets everything that speaks to a provider be proven without one:

* `POST /v1/embeddings` hashes words and character 4-grams into a unit vector, so texts that share
  words are near each other and equal texts are equal.
* `POST /v1/chat/completions` answers "what is my ..." from the memory block that it finds in the prompt
  (and from nothing else but the conversation itself), acknowledges statements, and turns a turn into
  facts with evidence when the request asks for the JSON schema `memory_extraction`. Streaming works.
* `PUT /control` injects faults: `{"target": "chat", "mode": "status", "status": 429, "times": 3}`.
  Modes: `delay` (`seconds`), `hang`, `status` (`status`), `garbage` (200 with a body that is not JSON),
  `wrong` (200 with valid JSON of another shape), `close` (connection cut), `slow` (`seconds` before each
  word of a stream), `say` (a chat model answers `text`), `limit` (400 for an embedding of more than
  `characters`). `times` limits how often; without it the fault stays until `DELETE /control`.
* `GET /journal` tells what was asked, without contents: kind, model, sizes, a digest, whether a bearer
  key came along, and whether a memory block was present.

Run it with ``python -m tests.doubles.openai_double --host 127.0.0.1 --port 4010``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import math
import os
import re
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

DIMENSIONS: Final = 1536
CHAT_MODEL: Final = "double-chat"
EMBEDDING_MODEL: Final = "double-embedding"
EXTRACTION_SCHEMA: Final = "memory_extraction"
HANG_S: Final = 600.0
MAX_BODY: Final = 8 * 1024 * 1024

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_MEMORY_BLOCK = re.compile(r"<user_memory\b[^>]*>(.*?)</user_memory>", re.DOTALL)
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by did do does for from had has have he her his i in is it its me my of"
        " on or our she so that the their them they this to was we were what when where which who whom why"
        " will with you your tell please know remember whats s",
    )
)


# -- embeddings -----------------------------------------------------------------------------------


def _bucket(feature: str) -> tuple[int, float]:
    digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return number >> 1, 1.0 if number & 1 else -1.0


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector of hashed words (weight 1) and character 4-grams (weight 0.35)."""
    vector = [0.0] * dimensions
    words = [_fold(word) for word in _WORD.findall(text.lower())]
    for word in words:
        weight = 0.2 if word in _STOP else 1.0
        index, sign = _bucket("w:" + word)
        vector[index % dimensions] += sign * weight
        if word in _STOP:
            continue
        padded = f"^{word}$"
        for start in range(max(1, len(padded) - 3)):
            index, sign = _bucket("g:" + padded[start : start + 4])
            vector[index % dimensions] += sign * 0.35
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        vector[0] = 1.0
        return vector
    return [value / norm for value in vector]


# -- chat -----------------------------------------------------------------------------------------


def _fold(word: str) -> str:
    """British and American spelling fall together, so that `favourite colour` finds `favorite_color`."""
    return word.replace("favourite", "favorite").replace("colour", "color")


def _terms(text: str) -> set[str]:
    folded = (_fold(word) for word in _WORD.findall(text.lower().replace("_", " ").replace("'s", "")))
    return {word for word in folded if word not in _STOP}


def _text_of(content: object) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            str(part.get("text", ""))
            for part in content
            if isinstance(part, dict) and part.get("type") == "text"
        )
    return ""


def memory_lines(messages: list[dict[str, Any]]) -> list[str]:
    """Every line of every memory block that the prompt carries."""
    lines: list[str] = []
    for message in messages:
        for block in _MEMORY_BLOCK.findall(_text_of(message.get("content"))):
            lines.extend(line.strip() for line in block.splitlines() if line.strip())
    return lines


def _strip_memory(text: str) -> str:
    return _MEMORY_BLOCK.sub("", text).strip()


_QUESTION = re.compile(
    r"(?:what(?:'s|\s+is|\s+are|\s+was)?|who\s+is|tell me|do you (?:know|remember)|remind me(?: of)?)\b"
    r".*?\bmy\s+(?P<what>[^?.!\n]+)",
    re.IGNORECASE,
)
_CALLED = re.compile(r"what(?:'s| is)\s+my\s+(?P<what>\w+)\s+(?:called|named)", re.IGNORECASE)
_FACT_LINE = re.compile(
    r"^[-*]?\s*(?P<key>[a-z0-9_.]{1,64}):\s*(?P<value>.+?)(?:\s+\((?:confidence|since|seen|as of)[^)]*\))?$"
)


def answer(messages: list[dict[str, Any]]) -> str:
    """What the double says: recall from the memory block, else an acknowledgement."""
    users = [_strip_memory(_text_of(m.get("content"))) for m in messages if m.get("role") == "user"]
    question = users[-1] if users else ""
    if question.lstrip().startswith("### Task:"):
        return _side_task(question)
    lines = memory_lines(messages)
    lowered = question.lower()
    if "what do you remember" in lowered or "memory block" in lowered:
        if not lines:
            return "I received no memory block."
        return f"I received a memory block of {len(lines)} lines:\n" + "\n".join(lines)
    match = _CALLED.search(question) or _QUESTION.search(question)
    if match and "my" in lowered:
        what = match.group("what").strip().rstrip("?").strip()
        what = re.sub(r"\s+(?:called|named)$", "", what)
        found = _recall(_terms(what), lines, users[:-1])
        if found is not None:
            return f"Your {what} is {found}."
        return f"I do not know your {what}."
    facts = extract_facts(question)
    if facts:
        return (
            "Noted: "
            + "; ".join(f"{fact['key'].replace('_', ' ')} is {fact['value']}" for fact in facts)
            + "."
        )
    return f"You said: {question[:2000]}"


def _recall(wanted: set[str], lines: list[str], earlier: list[str]) -> str | None:
    """The value of the fact line, then of the remembered or earlier sentence, that names all wanted words."""
    if not wanted:
        return None
    for line in lines:
        fact = _FACT_LINE.match(line)
        if fact and wanted <= _terms(fact.group("key")):
            return fact.group("value").strip().rstrip(".")
    for text in [*lines, *reversed(earlier)]:
        for fact_found in extract_facts(text):
            if wanted <= _terms(fact_found["key"]) and fact_found["action"] == "assert":
                return str(fact_found["value"])
    return None


def _side_task(prompt: str) -> str:
    """Open WebUI's own requests beside the chat: title, tags, follow-ups, search queries."""
    lowered = prompt.lower()
    if "follow_ups" in lowered or "follow-up" in lowered:
        return json.dumps({"follow_ups": ["What else do you remember?"]})
    if "title" in lowered:
        return json.dumps({"title": "A chat"})
    if "tags" in lowered:
        return json.dumps({"tags": ["General"]})
    return json.dumps({"queries": []})


_SENTENCE = re.compile(r"[^.!?\n]+")
_CLAUSE = re.compile(
    r"\s*(?:[,;]\s*(?=(?:and |but )?(?:i|my)\b)|\b(?:and|but)\b\s+(?=(?:i|my)\b))", re.IGNORECASE
)
_CORRECTION = re.compile(r"\b(?:actually|correction|i meant|not anymore|from now on|now)\b", re.IGNORECASE)
_VALUE = r"(?P<value>[^,;]{1,120}?)"
_END = r"(?=\s*(?:[,;]|\bbut\b|\band (?:i|my)\b|$))"
_PATTERNS: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = tuple(
    (re.compile(pattern + _END, re.IGNORECASE), key, action)
    for pattern, key, action in (
        (r"\bmy (?P<what>[\w ]{2,40}?) is no longer " + _VALUE, "{what}", "retract"),
        (r"\bi no longer live in " + _VALUE, "home_city", "retract"),
        (r"\bi no longer work (?:at|for) " + _VALUE, "employer", "retract"),
        (
            r"\bmy favou?rite (?P<what>[\w ]{2,40}?) (?:is|are)(?: now)? " + _VALUE,
            "favorite_{what}",
            "assert",
        ),
        (r"\bmy (?P<what>[\w ]{2,30}?)(?: is| was)? (?:called|named) " + _VALUE, "{what}_name", "assert"),
        (r"\bmy (?P<what>[\w]{2,30})'s name is " + _VALUE, "{what}_name", "assert"),
        (r"\bmy name is " + _VALUE, "name", "assert"),
        (r"\bi(?: now)? live in " + _VALUE, "home_city", "assert"),
        (r"\bi(?:'ve| have)? moved to " + _VALUE, "home_city", "assert"),
        (r"\bi(?: now)? work (?:at|for) " + _VALUE, "employer", "assert"),
        (r"\bi(?: now)? work as (?:an? )?" + _VALUE, "occupation", "assert"),
        (r"\bi(?: am|'m) allergic to " + _VALUE, "allergy", "assert"),
        (r"\bi(?: am|'m) an? (?P<value>vegetarian|vegan|teacher|nurse|engineer|doctor)", "is_a", "assert"),
        (r"\bmy (?P<what>[\w ]{2,40}?) (?:is|are)(?: now)? " + _VALUE, "{what}", "assert"),
    )
)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", " ".join(_fold(w) for w in text.lower().split())).strip("_")[:60]


def extract_facts(text: str) -> list[dict[str, Any]]:
    """Facts in simple first-person sentences, each with the words of the text that say so."""
    facts: list[dict[str, Any]] = []
    for sentence in _SENTENCE.findall(text):
        if re.match(
            r"\s*(?:what|who|where|when|why|how|do|does|is|are|can|tell me)\b", sentence, re.IGNORECASE
        ):
            continue
        for clause in _CLAUSE.split(sentence):
            fact = _fact_in(clause)
            if fact is not None:
                facts.append({**fact, "correction": bool(_CORRECTION.search(sentence))})
    return facts


def _fact_in(clause: str) -> dict[str, Any] | None:
    for pattern, key, action in _PATTERNS:
        match = pattern.search(clause)
        if match is None:
            continue
        return {
            "key": _slug(key.format(what=match.groupdict().get("what") or "")),
            "value": match.group("value").strip(),
            "confidence": 0.9,
            "evidence": match.group(0).strip(),
            "action": action,
        }
    return None


def extraction(messages: list[dict[str, Any]]) -> str:
    """The JSON that a model asked for `memory_extraction` returns for the turn in the last message."""
    text = _text_of(messages[-1].get("content")) if messages else ""
    try:
        turn = json.loads(text)
        user = str(turn.get("user", ""))
    except (ValueError, AttributeError):
        user = text
    facts = extract_facts(user)
    summary = " ".join(user.split())[:160]
    state = {}
    working = re.search(
        r"\bi(?: am|'m) (?:currently )?working on (?P<task>[^.!?\n]{2,80})", user, re.IGNORECASE
    )
    if working:
        state["current_task"] = working.group("task").strip()
    return json.dumps({"facts": facts, "summary": summary, "tags": [], "state": state})


# -- faults and journal ---------------------------------------------------------------------------


@dataclass
class Fault:
    """One injected fault and how many requests it still applies to (None: until cleared)."""

    mode: str
    seconds: float = 0.0
    status: int = 500
    times: int | None = None
    text: str = ""
    characters: int = 0


@dataclass
class State:
    """What the double's threads share."""

    api_key: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    journal: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=20_000))
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def take(self, target: str) -> Fault | None:
        """The fault that hits this request, if any; counts it down."""
        with self.lock:
            for name in (target, "all"):
                fault = self.faults.get(name)
                if fault is None:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        del self.faults[name]
                return fault
        return None

    def clear(self) -> None:
        """Ends every fault, hanging requests included."""
        with self.lock:
            self.faults.clear()
            self.released.set()
            self.released = threading.Event()


_MODES: Final = ("delay", "hang", "status", "garbage", "wrong", "close", "slow", "say", "limit")
_TARGETS: Final = ("chat", "embeddings", "models", "all")


def parse_fault(body: object) -> tuple[str, Fault]:
    """Reads a control request. Raises ValueError with a sentence when it makes no sense."""
    if not isinstance(body, dict):
        raise ValueError('the control body must be an object like {"target": "chat", "mode": "hang"}')
    target, mode = body.get("target", "all"), body.get("mode")
    if target not in _TARGETS:
        raise ValueError(f"target must be one of {', '.join(_TARGETS)}, not {target!r}")
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    times = body.get("times")
    return target, Fault(
        mode=mode,
        seconds=float(body.get("seconds", 0.0)),
        status=int(body.get("status", 500)),
        times=None if times is None else int(times),
        text=str(body.get("text", "")),
        characters=int(body.get("characters", 0)),
    )


class Handler(BaseHTTPRequestHandler):
    """One request. The server carries the shared state."""

    protocol_version = "HTTP/1.1"
    server_version = "openai-double/1"
    server: DoubleServer
    pause_s = 0.0
    said: str | None = None
    longest: int | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the journal is the log."""

    # -- plumbing

    def _send(self, status: int, payload: object, headers: dict[str, str] | None = None) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        headers = {"Retry-After": "1"} if status == 429 else None
        self._send(status, {"error": {"message": message, "type": kind, "code": status}}, headers)

    def _body(self) -> object:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            raise ValueError(f"the body is larger than {MAX_BODY} bytes")
        raw = self.rfile.read(length)
        return json.loads(raw) if raw else {}

    def _authorised(self) -> bool:
        key = self.server.state.api_key
        if not key:
            return True
        return hmac.compare_digest(
            (self.headers.get("Authorization") or "").encode(), f"Bearer {key}".encode()
        )

    # -- routes

    def do_GET(self) -> None:
        """Health, models, control and journal."""
        state = self.server.state
        path = self.path.split("?")[0]
        if path == "/healthz":
            self._send(200, {"status": "ok"})
        elif path == "/journal":
            with state.lock:
                self._send(200, {"counts": dict(state.counts), "entries": list(state.journal)})
        elif path == "/control":
            with state.lock:
                self._send(200, {name: vars(fault) for name, fault in state.faults.items()})
        elif path == "/v1/models":
            if not self._authorised():
                self._error(401, "the API key is missing or wrong", "authentication_error")
                return
            if self._faulted("models"):
                return
            data = [
                {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "double"}
                for name in (CHAT_MODEL, EMBEDDING_MODEL)
            ]
            self._send(200, {"object": "list", "data": data})
        else:
            self._error(404, f"there is nothing at {path}")

    def do_DELETE(self) -> None:
        """Clears the faults or the journal."""
        state = self.server.state
        if self.path == "/control":
            state.clear()
        elif self.path == "/journal":
            with state.lock:
                state.journal.clear()
                state.counts.clear()
        else:
            self._error(404, f"there is nothing at {self.path}")
            return
        self._send(200, {"status": "cleared"})

    def do_PUT(self) -> None:
        """Sets a fault."""
        if self.path != "/control":
            self._error(404, f"there is nothing at {self.path}")
            return
        try:
            target, fault = parse_fault(self._body())
        except ValueError as error:
            self._error(400, str(error))
            return
        with self.server.state.lock:
            self.server.state.faults[target] = fault
        self._send(200, {"target": target, **vars(fault)})

    def do_POST(self) -> None:
        """Chat and embeddings (and the control endpoint, for callers that cannot PUT)."""
        path = self.path.split("?")[0]
        if path == "/control":
            self.path = path
            self.do_PUT()
            return
        try:
            body = self._body()
        except ValueError as error:
            self._error(400, f"the body is not JSON: {error}")
            return
        if not isinstance(body, dict):
            self._error(400, "the body must be an object")
            return
        if not self._authorised():
            self._error(401, "the API key is missing or wrong", "authentication_error")
            return
        if path == "/v1/embeddings":
            self._embeddings(body)
        elif path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._error(404, f"there is nothing at {path}")

    def _note(self, kind: str, model: str, text: str, **more: object) -> None:
        """Writes to the journal: sizes and a digest, never contents."""
        state = self.server.state
        entry = {
            "at": round(time.time(), 3),
            "kind": kind,
            "model": model,
            "characters": len(text),
            "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
            "bearer": bool(self.headers.get("Authorization")),
            **more,
        }
        with state.lock:
            state.journal.append(entry)
            state.counts[kind] = state.counts.get(kind, 0) + 1

    def _faulted(self, target: str) -> bool:
        """Applies the fault for this request; True when the request is thereby answered."""
        state = self.server.state
        fault = state.take(target)
        self.pause_s = fault.seconds if fault is not None and fault.mode == "slow" else 0.0
        self.said = fault.text if fault is not None and fault.mode == "say" else None
        self.longest = fault.characters if fault is not None and fault.mode == "limit" else None
        if fault is None or fault.mode in ("slow", "say", "limit"):
            return False
        if fault.mode == "delay":
            time.sleep(min(fault.seconds, HANG_S))
            return False
        if fault.mode == "hang":
            with state.lock:
                released = state.released
            released.wait(HANG_S)
            self.close_connection = True
            return True
        if fault.mode == "status":
            self._error(fault.status, f"injected status {fault.status}", "injected")
        elif fault.mode == "garbage":
            self._send(200, b"<html>\xff\xfe this is not JSON")
        elif fault.mode == "wrong":
            self._send(200, {"object": "surprise", "data": [{"embedding": ["x"]}], "choices": [{}]})
        else:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
        return True

    def _embeddings(self, body: dict[str, Any]) -> None:
        inputs = body.get("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            self._error(400, "input must be a string or a non-empty list of strings")
            return
        model = str(body.get("model", EMBEDDING_MODEL))
        dimensions = int(body.get("dimensions") or DIMENSIONS)
        self._note("embeddings", model, "\n".join(texts), inputs=len(texts))
        if self._faulted("embeddings"):
            return
        if self.longest is not None and any(len(text) > self.longest for text in texts):
            self._error(400, f"an input is longer than {self.longest} characters")
            return
        data = []
        for index, text in enumerate(texts):
            vector = embed(text, dimensions)
            packed: object = vector
            if body.get("encoding_format") == "base64":
                packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": packed})
        tokens = sum(len(text) // 4 + 1 for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._send(200, {"object": "list", "model": model, "data": data, "usage": usage})

    def _chat(self, body: dict[str, Any]) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            self._error(400, "messages must be a non-empty list of objects")
            return
        model = str(body.get("model", CHAT_MODEL))
        wanted = body.get("response_format") or {}
        schema = wanted.get("json_schema", {}).get("name") if isinstance(wanted, dict) else None
        kind = "extraction" if schema == EXTRACTION_SCHEMA else "chat"
        prompt = "\n".join(_text_of(message.get("content")) for message in messages)
        self._note(
            kind,
            model,
            prompt,
            messages=len(messages),
            roles=[str(message.get("role")) for message in messages][-20:],
            stream=bool(body.get("stream")),
            memory_lines=len(memory_lines(messages)),
        )
        if self._faulted("chat"):
            return
        text = self.said
        if text is None:
            text = extraction(messages) if kind == "extraction" else answer(messages)
        usage = {"prompt_tokens": len(prompt) // 4 + 1, "completion_tokens": len(text) // 4 + 1}
        usage["total_tokens"] = sum(usage.values())
        identity = "chatcmpl-" + hashlib.sha256(prompt.encode()).hexdigest()[:24]
        if body.get("stream"):
            include = isinstance(body.get("stream_options"), dict) and body["stream_options"].get(
                "include_usage"
            )
            self._stream(identity, model, text, usage if include else None)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(
            200,
            {
                "id": identity,
                "object": "chat.completion",
                "created": int(time.time()),
                "model": model,
                "choices": [choice],
                "usage": usage,
            },
        )

    def _stream(self, identity: str, model: str, text: str, usage: dict[str, int] | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        base = {
            "id": identity,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        pieces = re.findall(r"\S+\s*|\s+", text) or [""]

        def event(choices: list[dict[str, Any]], **more: object) -> None:
            self.wfile.write(b"data: " + json.dumps({**base, "choices": choices, **more}).encode() + b"\n\n")
            self.wfile.flush()

        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for piece in pieces:
                time.sleep(self.pause_s)
                event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
            event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
            if usage is not None:
                event([], usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")


class DoubleServer(ThreadingHTTPServer):
    """The server with its state; usable in a test as ``with serving() as (url, state):``."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], state: State) -> None:
        super().__init__(address, Handler)
        self.state = state

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up mid-answer (a timeout under test) is normal here."""


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", port: int = 0, api_key: str = "") -> Any:
    """Runs the double in a thread; yields its base URL (ending in `/v1`) and its state."""
    state = State(api_key=api_key)
    server = DoubleServer((host, port), state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/v1", state
    finally:
        state.clear()
        server.shutdown()
        server.server_close()
        thread.join(5)


def main(arguments: list[str] | None = None) -> None:
    """The command line. OPENAI_DOUBLE_KEY_FILE names the file with the key to require, if any."""
    parser = argparse.ArgumentParser(description="A double of an OpenAI-compatible API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4010)
    options = parser.parse_args(arguments)
    key_file = os.environ.get("OPENAI_DOUBLE_KEY_FILE")
    key = Path(key_file).read_text().strip() if key_file else ""
    server = DoubleServer((options.host, options.port), State(api_key=key))
    print(f"openai double on http://{options.host}:{server.server_address[1]}/v1", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
