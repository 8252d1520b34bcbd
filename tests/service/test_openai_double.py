"""The double of the OpenAI API does what the tests that lean on it assume."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.doubles.openai_double import EXTRACTION_SCHEMA, embed, extract_facts, serving


@pytest.fixture
def double() -> Iterator[httpx.Client]:
    with serving() as (url, _state), httpx.Client(base_url=url, timeout=60) as client:
        yield client


def control(client: httpx.Client, **fault: object) -> None:
    root = str(client.base_url).removesuffix("/v1/")
    assert client.put(f"{root}/control", json=fault).status_code == 200


def chat(client: httpx.Client, *messages: tuple[str, str], **more: object) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": r, "content": c} for r, c in messages], **more}
    return client.post("chat/completions", json=body)


def said(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_related_texts_are_near_and_unrelated_ones_are_not() -> None:
    base = embed("my dog is called Biscuit")
    assert dot(base, base) == pytest.approx(1.0)
    assert dot(base, embed("what is the dog called?")) > 0.4
    assert abs(dot(base, embed("quarterly market report"))) < 0.1
    assert len(embed("")) == 1536


@pytest.mark.parametrize(
    ("sentence", "key", "value", "action"),
    [
        ("My favourite color is teal", "favorite_color", "teal", "assert"),
        ("My dog is called Biscuit.", "dog_name", "Biscuit", "assert"),
        ("I live in Oslo", "home_city", "Oslo", "assert"),
        ("My favorite colour is no longer teal", "favorite_color", "teal", "retract"),
    ],
)
def test_simple_sentences_become_facts_whose_evidence_is_in_the_text(
    sentence: str, key: str, value: str, action: str
) -> None:
    (fact,) = extract_facts(sentence)
    assert (fact["key"], fact["value"], fact["action"]) == (key, value, action)
    assert fact["evidence"] in sentence


def test_two_clauses_give_two_facts_and_a_question_none() -> None:
    assert [f["key"] for f in extract_facts("I am allergic to nuts and I live in Oslo")] == [
        "allergy",
        "home_city",
    ]
    assert extract_facts("What is my dog called?") == []


def test_recall_is_answered_from_the_memory_block_only(double: httpx.Client) -> None:
    block = '<user_memory ref="1">\nFacts:\n- favorite_color: teal (confidence 0.90)\n</user_memory>'
    question = ("user", "What is my favourite colour?")
    assert said(chat(double, question)) == "I do not know your favourite colour."
    assert said(chat(double, ("system", block), question)) == "Your favourite colour is teal."


def test_streaming_says_the_same_as_not_streaming(double: httpx.Client) -> None:
    whole = said(chat(double, ("user", "hello there")))
    response = chat(double, ("user", "hello there"), stream=True)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(pieces) == whole


def test_extraction_is_asked_for_by_its_schema_name(double: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": EXTRACTION_SCHEMA, "schema": {}}}
    turn = json.dumps({"user": "My dog is called Biscuit", "assistant": "Nice"})
    found = json.loads(said(chat(double, ("user", turn), response_format=form)))
    assert found["facts"][0]["key"] == "dog_name"


def test_base64_embeddings_hold_the_same_numbers(double: httpx.Client) -> None:
    body = {"model": "m", "input": ["teal"], "encoding_format": "base64"}
    packed = double.post("embeddings", json=body).json()["data"][0]["embedding"]
    assert list(struct.unpack("<1536f", base64.b64decode(packed))) == pytest.approx(embed("teal"), abs=1e-6)


def test_faults_hit_as_often_as_told_and_then_stop(double: httpx.Client) -> None:
    control(double, target="embeddings", mode="status", status=429, times=2)
    body = {"model": "m", "input": "x"}
    assert [double.post("embeddings", json=body).status_code for _ in range(3)] == [429, 429, 200]
    control(double, target="chat", mode="garbage", times=1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(chat(double, ("user", "x")).content.decode(errors="replace"))
    control(double, target="embeddings", mode="hang", times=1)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        double.post("embeddings", json=body, timeout=0.3)
    assert time.monotonic() - started < 30


def test_a_slow_stream_pauses_before_each_word(double: httpx.Client) -> None:
    control(double, target="chat", mode="slow", seconds=0.5, times=1)
    took = []
    for _ in range(2):
        started = time.monotonic()
        assert chat(double, ("user", "one two three four"), stream=True).status_code == 200
        took.append(time.monotonic() - started)
    assert took[0] >= 6 * 0.5 > took[1]


def test_the_journal_counts_and_keeps_no_contents(double: httpx.Client) -> None:
    chat(double, ("user", "a very private sentence"))
    root = str(double.base_url).removesuffix("/v1/")
    journal = double.get(f"{root}/journal")
    assert journal.json()["counts"] == {"chat": 1}
    assert "private" not in journal.text


def test_a_required_key_is_required() -> None:
    with serving(api_key="k1") as (url, _state):
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers={"Authorization": "Bearer k1"}).status_code == 200
