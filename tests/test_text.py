"""Text of unknown origin: on a terminal and in Markdown tables."""

import unicodedata

import pytest

from bnn_keras.text import markdown_row, printable


@pytest.mark.parametrize("kind", ["Cc", "Cs"])
def test_every_control_character_is_escaped(kind):
    characters = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == kind]
    assert characters
    for character in set(characters) - {"\n"}:
        assert printable(f"a{character}b").isascii()
        assert printable(f"a{character}b").isprintable()


def test_changes_of_the_writing_direction_are_escaped():
    assert printable("gpj\u202egnp.exe") == "gpj\\u202egnp.exe"


@pytest.mark.parametrize("text", ["plain", "größe 3 × 3 – ok", "日本", "🙂", "two\nlines", "a\u00a0b", "नि\u200dक"])
def test_other_text_is_unchanged(text):
    assert printable(text) == text


def test_cells_cannot_leave_their_column():
    row = markdown_row(["a|b\nc", "<script>alert()</script>", "\x1b[31mred", None])
    assert row == "| a\\|b c | &lt;script>alert()&lt;/script> | \\x1b[31mred | – |"
