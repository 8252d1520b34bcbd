"""Verifiers that Postgres accepts."""

import pytest

from operations.scram import prepared, scram_verifier


def test_a_verifier_is_the_one_of_rfc_7677():
    # Section 3: password "pencil", this salt, 4096 iterations; the keys of its exchange.
    import base64

    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert scram_verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_every_verifier_has_its_own_salt():
    assert scram_verifier("pencil") != scram_verifier("pencil")


PREPARED = {
    "soft hyphen goes": ("I\u00adX", "IX"),
    "case is kept": ("USER", "USER"),
    "compatibility characters are unified": ("\u00aa", "a"),
    "roman nine": ("\u2168", "IX"),
    "another space": ("a\u00a0b", "a b"),
    "a prohibited character leaves the password as it is": ("\u0007x\u00aa", "\u0007x\u00aa"),
    "mixed directions leave it as it is": ("\u06271", "\u06271"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_password_is_prepared_as_the_client_does(case):
    password, expected = PREPARED[case]
    assert prepared(password) == expected


@pytest.mark.parametrize("password", ["", "a\0b"])
def test_what_cannot_be_a_password_is_refused(password):
    with pytest.raises(ValueError, match="must not be empty or hold a NUL byte"):
        scram_verifier(password)
