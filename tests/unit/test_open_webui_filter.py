"""The filter's pure parts and its spool, without a server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.settings import Settings
from memory_service.writing import MESSAGE_CHARACTERS

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "files" / "open_webui" / "memory_filter.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_filter", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


memory_filter = load()
NONCE = "0123456789abcdef"
USER = {"id": "7c0e9f6e-3c1b-4b53-9a55-6d1f2f3d9b11"}


def test_the_file_survives_the_server_unchanged() -> None:
    """Open WebUI 0.12.4 replaces these substrings anywhere in a function's code, comments included."""
    assert not re.search(r"from (utils|apps|main|config)", SOURCE.read_text())


def test_the_file_asks_for_no_packages() -> None:
    head = SOURCE.read_text().split('"""')[1]
    assert "requirements:" not in head and head.splitlines()[1].startswith("title:")


@given(st.text(), st.text(), st.text(), st.sampled_from(["profile", "recall"]))
def test_a_block_comes_out_of_a_text_as_it_went_in(before: str, memory: str, after: str, kind: str) -> None:
    block = memory_filter.fenced(kind, NONCE, memory)
    if NONCE in memory + before + after:
        return
    assert memory_filter.without_fences(f"{before}\n\n{block}{after}") == before.rstrip() + after


@given(st.text(alphabet='<>/ usermory_="idkendprofile0123456789abcf\n', max_size=400))
def test_no_memory_can_open_or_close_a_block(memory: str) -> None:
    block = memory_filter.fenced("recall", NONCE, memory)
    assert len(re.findall(r"</?user_memory\b", block, re.IGNORECASE)) == 2


def test_text_without_a_whole_block_stays_as_it_is() -> None:
    for text in (
        "",
        "plain",
        '<user_memory kind="recall" id="0123456789abcdef">open',
        "</user_memory>",
        "a\n",
    ):
        assert memory_filter.without_fences(text) == text


def test_a_text_full_of_opened_blocks_is_handled_at_once() -> None:
    text = "".join(f'<user_memory kind="recall" id="{number:016x}">' for number in range(20_000))
    started = time.process_time()
    assert memory_filter.without_fences(text) == text
    assert time.process_time() - started < 5  # a quadratic search takes minutes


def test_a_context_is_split_into_what_is_stable_and_what_is_not() -> None:
    context = "\n".join(
        [
            '<user_memory id="n1">',
            "A preamble.",
            "Profile:",
            "- name: Ada",
            "Facts:",
            "- pet: cat:",
            "Recent conversations:",
            "- one",
            "</user_memory>",
        ]
    )
    assert memory_filter.split_context(context) == (
        "- name: Ada",
        "Facts:\n- pet: cat:\nRecent conversations:\n- one",
    )
    assert memory_filter.split_context("- only a line") == ("", "- only a line")
    assert memory_filter.split_context("") == ("", "")


async def settled(hook: Any) -> None:
    """Wait until the filter has nothing under way."""
    deadline = time.monotonic() + 20
    while hook._tasks:
        assert time.monotonic() < deadline, "the filter does not come to rest"
        await asyncio.sleep(0.01)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "messages", "id"]), inner)
        ),
        max_leaves=20,
    )
)
def test_neither_side_ever_raises_whatever_it_is_given(body: Any) -> None:
    """A raising inlet ends the chat with the exception's text."""

    async def both() -> tuple[Any, Any]:
        hook = memory_filter.Filter()
        hook.valves.assemble_url = hook.valves.writeback_url = "http://127.0.0.1:9/"
        hook.valves.spool_dir = "/proc/cannot-be-written"
        metadata = {"chat_id": "c"}
        answers = await hook.inlet(body, USER, metadata), await hook.outlet(body, USER, metadata)
        for task in list(hook._tasks):
            task.cancel()
        return answers

    assert asyncio.run(both()) == (body, body)


def test_a_disk_that_takes_nothing_still_lets_the_turn_be_sent_once() -> None:
    sent = []

    async def turn() -> None:
        hook = memory_filter.Filter()
        hook.valves.spool_dir = "/proc/cannot-be-written"

        async def post(url: str, token: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            sent.append(body)
            return {"success": True}

        hook._post = post
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        await hook.outlet({"model": "m", "messages": messages, "chat_id": "c", "id": "m1"}, USER, {})
        await settled(hook)

    asyncio.run(turn())
    assert [body["response"] for body in sent] == ["hello"]


class Taken(HTTPServer):
    """Takes every writeback and keeps its bytes."""

    bodies: list[bytes]
    kinds: list[str | None]


class _TakenHandler(BaseHTTPRequestHandler):
    server: Taken

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        self.server.kinds.append(self.headers["Content-Type"])
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"success": true}')


@pytest.fixture
def taken() -> Iterator[Taken]:
    server = Taken(("127.0.0.1", 0), _TakenHandler)
    server.bodies, server.kinds = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def hooked(spool: Path, **valves: Any) -> Any:
    """A filter with that spool and those valves."""
    hook = memory_filter.Filter()
    hook.valves = hook.Valves(spool_dir=str(spool), token="t", **valves)
    return hook


def turn_of(question: str, answer: str, message_id: str = "m1") -> dict[str, Any]:
    """What the server hands to the outlet after an answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"model": "m", "messages": messages, "chat_id": "c", "id": message_id}


@pytest.mark.parametrize(
    "letter", ["я", "語", "🙂", '"', "\n", "\x00", "\x01", "\x0b", "\x7f", "\u2028", "\ud800"]
)
def test_a_turn_of_the_longest_texts_fits_into_what_the_memory_service_takes(
    tmp_path: Path, taken: Taken, letter: str
) -> None:
    text = f"a{letter * 150_000}b"

    async def turn() -> None:
        hook = hooked(tmp_path / "spool", writeback_url=f"http://127.0.0.1:{taken.server_port}/")
        await hook.outlet(turn_of(text, text), USER, {})
        await settled(hook)

    asyncio.run(turn())
    (body,) = taken.bodies
    assert len(body) <= Settings.model_fields["max_body_bytes"].default
    assert taken.kinds == ["application/json"]
    sent = json.loads(body.decode())
    assert sent["response"] == sent["conversation"][0]["content"] and sent["response"].startswith("a")
    if letter in "я語🙂":
        assert sent["response"] == text[:MESSAGE_CHARACTERS]


def test_a_long_text_is_cut_between_words() -> None:
    limit = memory_filter.MAX_TEXT_CHARS
    text = "word " * (limit // 5 - 1) + "password-hunter2" * 20
    assert memory_filter.shortened(text).endswith("word") and len(memory_filter.shortened(text)) < limit
    assert memory_filter.shortened("語" * (limit + 1)) == "語" * limit
    assert memory_filter.shortened("word " * 3) == "word " * 3


def test_a_block_behind_a_long_question_is_no_part_of_it() -> None:
    """The limit would cut the block in two, and half a block cannot be told from what the user wrote."""
    hook = memory_filter.Filter()
    question = "w" * (memory_filter.MAX_TEXT_CHARS - 10)
    block = memory_filter.fenced("recall", NONCE, "- pet: cat")
    assert hook._own_words(f"{question}\n\n{block}", {}) == question


class SlowDisk:
    """An fsync that takes until it is released, and then fails if it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
        self.released = threading.Event()
        self.fails = fails
        monkeypatch.setattr(memory_filter.os, "fsync", self.fsync)
        monkeypatch.setattr(memory_filter, "DISK_WAIT_S", 0.05)

    def fsync(self, descriptor: int) -> None:
        self.released.wait(20)
        if self.fails:
            raise OSError(5, "Input/output error")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_slow_disk_delays_no_answer_and_strands_no_turn(
    tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch, fails: bool, cancelled: bool
) -> None:
    """Whether the late write succeeds or fails, and whether the request is still there or not."""
    disk = SlowDisk(monkeypatch, fails)

    async def turn() -> None:
        hook = hooked(tmp_path / "spool", writeback_url=f"http://127.0.0.1:{taken.server_port}/")
        answering = asyncio.create_task(hook.outlet(turn_of("hi", "hello"), USER, {}))
        if cancelled:
            await asyncio.sleep(0.01)
            answering.cancel()
        await asyncio.wait({answering}, timeout=10)
        assert answering.done() and answering.cancelled() is cancelled
        while len(hook._tasks) > 1:  # whoever looks for turns has looked before this one is there
            await asyncio.sleep(0.01)
        assert taken.bodies == []
        disk.released.set()
        await settled(hook)

    asyncio.run(turn())
    assert [json.loads(body)["response"] for body in taken.bodies] == ["hello"]
    assert list((tmp_path / "spool").glob("*.json")) == []


def test_a_spool_keeps_the_newest_within_its_limits(tmp_path: Path) -> None:
    spool = memory_filter.Spool(tmp_path / "spool")
    dropped = 0
    for index in range(10):
        dropped += spool.add(f"turn {index}".encode(), json.dumps(index).encode(), 4, 1_000_000)
        time.sleep(0.002)  # the order of files is the order of their times
    assert dropped == 6
    assert [json.loads(path.read_bytes()) for path, _, _ in spool.waiting()] == [6, 7, 8, 9]
    assert spool.add(b"large", b"x" * 900, 100, 1000) == 0
    assert spool.add(b"larger", b"x" * 950, 100, 1000) == 5
    assert [size for _, _, size in spool.waiting()] == [950]


def waiting_answers(spool: Path) -> list[str]:
    return [json.loads(path.read_bytes())["response"] for path, _, _ in memory_filter.Spool(spool).waiting()]


def test_the_same_turn_waits_once_and_another_answer_beside_it(tmp_path: Path) -> None:
    async def turns() -> None:
        hook = hooked(tmp_path, writeback_url="http://127.0.0.1:9/")
        for answer in ("Once", "Once", "Once upon a time"):
            await hook.outlet(turn_of("A story", answer), USER, {})
        for task in list(hook._tasks):
            task.cancel()

    asyncio.run(turns())
    assert waiting_answers(tmp_path) == ["Once", "Once upon a time"]


def test_an_answer_continued_while_its_first_part_is_on_its_way_arrives_as_well(tmp_path: Path) -> None:
    """Continuing keeps the ids of chat and message."""
    sent = []

    async def turns() -> None:
        hook = hooked(tmp_path)
        under_way, accepted = asyncio.Event(), asyncio.Event()

        async def post(url: str, token: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            sent.append(body["response"])
            under_way.set()
            await accepted.wait()
            return {"success": True}

        hook._post = post
        await hook.outlet(turn_of("A story", "Once"), USER, {})
        await asyncio.wait_for(under_way.wait(), 10)
        await hook.outlet(turn_of("A story", "Once upon a time"), USER, {})
        accepted.set()
        await settled(hook)

    asyncio.run(turns())
    assert sent == ["Once", "Once upon a time"]
    assert waiting_answers(tmp_path) == []


def test_an_edited_function_takes_the_spool_over_from_the_one_before(tmp_path: Path) -> None:
    spool = memory_filter.Spool(tmp_path / "spool")
    spool.take_over("old")
    spool.take_over("new")
    assert spool.owned_by("new") and not spool.owned_by("old")


def test_a_turn_that_nobody_took_for_a_week_is_given_up(tmp_path: Path) -> None:
    async def send() -> str:
        hook = memory_filter.Filter()
        spool = memory_filter.Spool(tmp_path)
        spool.add(b"turn", b"{}", 10, 1000)
        ((path, _, _),) = spool.waiting()
        return str(await hook._send_file(hook.valves, path, 169 * 3600.0))

    assert asyncio.run(send()) == "done"
    assert list(tmp_path.glob("*.json")) == []


class Stumbling:
    """A filter whose other side fails on some turns in one way and takes the others; it keeps what it was sent."""

    def __init__(self, spool: Path, poison: int, others: int, failure: Exception) -> None:
        self.hook = hooked(spool)
        self.hook._post = self.post
        self.spool = memory_filter.Spool(spool)
        self.failure = failure
        self.sent: list[str] = []
        for index in range(poison + others):
            self.add(f"poison {index}" if index < poison else f"turn {index}", age_s=1000.0 - index)

    def add(self, words: str, age_s: float = 0.0) -> None:
        self.spool.add(words.encode(), json.dumps({"response": words}).encode(), 1000, 1_000_000)
        written = time.time() - age_s
        for path, _, _ in self.spool.waiting():
            if json.loads(path.read_bytes())["response"] == words:
                os.utime(path, (written, written))

    async def post(self, url: str, token: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.sent.append(body["response"])
        if body["response"].startswith("poison"):
            raise self.failure
        return {"success": True}

    def round(self) -> list[list[str]]:
        """What one round sends, a few at once, in the order of their names."""
        self.sent.clear()
        asyncio.run(self.hook._round(self.hook.valves, self.spool.waiting()))
        few = memory_filter.SEND_AT_ONCE
        return [sorted(self.sent[start : start + few]) for start in range(0, len(self.sent), few)]


def poison(*numbers: int) -> list[str]:
    return [f"poison {number}" for number in numbers]


@pytest.mark.parametrize("status", [200, 500, 502])
def test_turns_that_always_fail_hold_up_nobody_elses_and_keep_their_age(tmp_path: Path, status: int) -> None:
    stumbling = Stumbling(tmp_path, 6, 3, memory_filter.Unusable("fails", status))
    assert stumbling.round() == [poison(0, 1, 2, 3), [*poison(4, 5), "turn 6", "turn 7"], ["turn 8"]]
    assert waiting_answers(tmp_path) == poison(0, 1, 2, 3, 4, 5)
    assert all(900 < age < 1100 for _, age, _ in stumbling.spool.waiting())
    stumbling.add("turn 9")
    assert "turn 9" in stumbling.round()[0], "the newest of all, and it never failed"


@pytest.mark.parametrize(
    "failure",
    [
        *(memory_filter.Unusable("closed", status) for status in (403, 404, 429, 503)),
        memory_filter.aiohttp.ClientConnectionError(),
        ConnectionRefusedError(),
    ],
    ids=lambda failure: str(getattr(failure, "status", type(failure).__name__)),
)
def test_where_nobody_takes_turns_a_few_are_tried_and_the_oldest_again(
    tmp_path: Path, failure: Exception
) -> None:
    stumbling = Stumbling(tmp_path, 6, 3, failure)
    assert [stumbling.round(), stumbling.round()] == [[poison(0, 1, 2, 3)]] * 2


@pytest.mark.parametrize("failure", [memory_filter.Unusable("late", 504), TimeoutError()])
def test_turns_that_nobody_answers_in_time_end_a_round_and_then_wait_behind_the_others(
    tmp_path: Path, failure: Exception
) -> None:
    stumbling = Stumbling(tmp_path, 4, 3, failure)
    assert stumbling.round() == [poison(0, 1, 2, 3)]
    assert stumbling.round() == [[*poison(0), "turn 4", "turn 5", "turn 6"]]
    assert waiting_answers(tmp_path) == poison(0, 1, 2, 3)


def test_when_every_turn_fails_a_round_tries_some_and_the_next_one_others(tmp_path: Path) -> None:
    stumbling = Stumbling(tmp_path, 50, 1, memory_filter.Unusable("fails", 500))
    rounds = [stumbling.round() for _ in range(3)]
    assert rounds[0] + rounds[1] == [sorted(poison(*range(n, n + 4))) for n in range(0, 40, 4)]
    assert "turn 50" in rounds[2][2]


def test_a_turn_that_fails_is_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_filter, "RETRY_FIRST_S", 0.2)
    stumbling = Stumbling(tmp_path, 1, 0, memory_filter.Unusable("fails", 500))

    async def drain() -> None:
        stumbling.hook._start_drainer(stumbling.hook.valves)
        await asyncio.sleep(0.5)
        for task in list(stumbling.hook._tasks):
            task.cancel()

    asyncio.run(drain())
    assert 1 <= len(stumbling.sent) <= 3


@pytest.mark.parametrize(
    ("body", "metadata", "user", "expected"),
    [
        ({"model": "m"}, {"chat_id": "c"}, USER, True),
        ({"model": "m"}, {}, USER, True),
        ({"model": "m"}, None, USER, True),
        ({"model": "m"}, {"task": "title_generation"}, USER, False),
        ({"model": "monitoring"}, {}, USER, False),
        ({"model": "monitoring-eu"}, {}, USER, False),
        ({"model": "m"}, {"chat_id": "temporary:1"}, USER, False),
        ({"model": "m"}, {"chat_id": "local:1"}, USER, False),
        ({"model": "m"}, {"chat_id": "channel:1"}, USER, False),
        ({"model": "m", "chat_id": "channel:1"}, {}, USER, False),
        ({"model": "m"}, {}, {**USER, "valves": {"enabled": False}}, False),
        ({"model": "m"}, {}, {}, False),
        ({"model": "m"}, {}, None, False),
        ([], {}, USER, False),
    ],
)
def test_which_turns_are_ours(body: Any, metadata: Any, user: Any, expected: bool) -> None:
    hook = memory_filter.Filter()
    assert hook._applies(hook.valves, body, user, metadata) is expected


def test_temporary_chats_can_be_remembered_by_a_valve_and_channels_cannot() -> None:
    hook = memory_filter.Filter()
    hook.valves.skip_temporary_chats = False
    for chat_id, expected in (("temporary:1", True), ("local:1", True), ("channel:1", False)):
        assert hook._applies(hook.valves, {"model": "m"}, USER, {"chat_id": chat_id}) is expected


@pytest.mark.parametrize("chat_id", ["", "temporary:1", "local:1", "channel:1"])
def test_a_chat_that_is_not_saved_returns_to_its_client_without_memory(chat_id: str) -> None:
    hook = memory_filter.Filter()
    hook.valves.enabled = False
    block = memory_filter.fenced("recall", NONCE, "- pet: cat")
    body = {"chat_id": chat_id, "messages": [{"role": "user", "content": f"hi\n\n{block}"}]}
    asyncio.run(hook.outlet(body, USER, {"chat_id": chat_id}))
    assert body["messages"] == [{"role": "user", "content": "hi"}]
