"""A person at a real Open WebUI in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.openai_double import serving
from tests.service.open_webui_browser import person
from tests.service.open_webui_server import OpenWebui, Webhook, database, wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebui]:
    folder = tmp_path_factory.mktemp("open-webui")
    with database() as database_url, serving() as (llm_url, _):
        webhook = Webhook()
        webhook.start()
        server = OpenWebui(folder, database_url, llm_url, webhook, f"http://127.0.0.1:{webhook.port}")
        server.prepare()
        server.start()
        applied = server.provision("apply")
        assert applied.returncode == 0, applied.stderr
        yield server
        server.stop()
        webhook.stop()


def test_a_person_tells_a_fact_and_is_asked_nothing_twice(server: OpenWebui, tmp_path: Path) -> None:
    password = server.secret("client_password")
    with person(server.url, tmp_path) as ada:
        ada.sign_in("test-client-001@example.test", password)
        ada.say("My favourite colour is teal.", expect="Noted")
        wait_until("the turn to be written back", lambda: server.webhook.written)
        ada.new_chat()
        ada.say("What is my favourite colour?", expect="Your favourite colour is teal.")
        assert "user_memory" not in ada.page_text()
        ada.leave()
        ada.sign_in("test-client-002@example.test", password)
        ada.say("What is my favourite colour?", expect="I do not know your favourite colour.")
        assert len(list(tmp_path.glob("*.png"))) == 1


def test_a_person_in_a_temporary_chat_is_neither_known_nor_remembered(
    server: OpenWebui, tmp_path: Path
) -> None:
    """What a temporary chat is called is the page's choice, and changes with its version."""
    with person(server.url, tmp_path) as ada:
        ada.sign_in("test-client-001@example.test", server.secret("client_password"))
        ada.say("My favourite colour is teal.", expect="Noted")
        hook = server.webhook
        wait_until("every turn to be written back", lambda: len(hook.written) == len(hook.assembled))
        known = len(hook.assembled)
        ada.new_temporary_chat()
        ada.say("What is my favourite colour?", expect="I do not know your favourite colour.")
        assert len(hook.assembled) == len(hook.written) == known
        ada.new_chat()
        ada.say("What is my favourite colour?", expect="Your favourite colour is teal.")
        wait_until("the next turn to be written back", lambda: len(hook.written) > known)
        assert len(hook.written) == known + 1
