"""Differences as people read them."""

import pytest

from operations.differences import render_changes, subset_changes, text_diff


def shown(actual, desired, redact=()):
    return render_changes(subset_changes(actual, desired), redact)


CASES = {
    "equal": ({"a": 1}, {"a": 1}, []),
    "a field of the server's own is ignored": ({"a": 1, "b": 2}, {"a": 1}, []),
    "a changed field": ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
    "a missing field": ({}, {"a": None}, ["a: (absent) -> null"]),
    "a nested field": ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, ["a.b: 1 -> 3"]),
    "a missing branch": ({}, {"a": {"b": 1}}, ["a.b: (absent) -> 1"]),
    "no object at all": (None, {"a": 1}, ["a: (absent) -> 1"]),
    "an empty object that is missing": ({}, {"a": {}}, ["a: (absent) -> {}"]),
    "a list is one value": ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
    "numbers are numbers": ({"a": 1.0}, {"a": 1}, []),
    "true is not one": ({"a": 1}, {"a": True}, ["a: 1 -> true"]),
    "another type": ({"a": "1"}, {"a": {"b": 1}}, ['a: "1" -> {"b": 1}']),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_declared_is_compared(case):
    actual, desired, lines = CASES[case]
    assert shown(actual, desired) == lines


def test_a_redacted_field_shows_that_it_differs_and_nothing_else():
    lines = shown({"user": {"password": "old-secret"}}, {"user": {"password": "new-secret"}}, ["password"])
    assert lines == ["user.password: <redacted> -> <redacted>, differs"]


def test_a_redacted_field_is_hidden_inside_lists_and_objects():
    lines = shown({}, {"users": [{"name": "a", "token": "secret"}]}, ["token"])
    assert lines == ['users: (absent) -> [{"name": "a", "token": "<redacted>"}]']


def test_everything_below_a_redacted_field_is_hidden():
    assert shown({}, {"auth": {"key": "secret"}}, ["auth"]) == ["auth.key: <redacted> -> <redacted>, differs"]


def test_a_text_diff_has_the_changed_lines():
    assert text_diff("a\nb\n", "a\nc\n", "f") == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]


def test_equal_texts_have_no_diff():
    assert text_diff("a\n", "a\n", "f") == []
