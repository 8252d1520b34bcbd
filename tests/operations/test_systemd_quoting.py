"""What is written into a unit file is what the process gets."""

import subprocess

import pytest

from operations.systemd_quoting import quote_command, quote_setting, quote_word

CASES = {
    "plain": ("--memory", "--memory"),
    "a path": ("/a/b:/c,x=y", "/a/b:/c,x=y"),
    "specifier": ("100%", "100%%"),
    "variable": ("$HOME ${X}", '"$$HOME $${X}"'),
    "spaces": ("a  b", '"a  b"'),
    "empty": ("", '""'),
    "double quotes": ('say "hi"', '"say \\"hi\\""'),
    "single quotes": ("it's", '"it\'s"'),
    "backslash": ("a\\nb", '"a\\\\nb"'),
    "newline and tab": ("a\nb\tc", '"a\\nb\\tc"'),
    "control character": ("a\x1bb", '"a\\x1bb"'),
    "semicolon": (";", '";"'),
    "not ASCII": ("Zürich", '"Zürich"'),
}


@pytest.mark.parametrize("case", CASES)
def test_a_word_is_quoted(case):
    text, quoted = CASES[case]
    assert quote_word(text) == quoted


def test_a_nul_byte_is_refused():
    with pytest.raises(ValueError, match="NUL byte"):
        quote_word("a\0b")


def test_an_option_and_its_value_share_a_line():
    assert quote_command(["--rm", "--name", "a b", "image", "run", "-x", "1"]) == (
        '--rm \\\n  --name "a b" \\\n  image \\\n  run \\\n  -x \\\n  1'
    )


def test_a_setting_doubles_percent_and_keeps_dollar():
    assert quote_setting("100% $HOME") == "100%% $HOME"


@pytest.mark.parametrize("text", ["two\nlines", "ends with \\"])
def test_a_setting_of_more_than_one_line_is_refused(text):
    with pytest.raises(ValueError, match="one line"):
        quote_setting(text)


@pytest.mark.real
def test_systemd_accepts_every_quoted_word(tmp_path):
    words = quote_command(["--x", *(text for text, _ in CASES.values())])
    unit = tmp_path / "quoting.service"
    unit.write_text(f"[Service]\nExecStart=/bin/echo {words}\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
