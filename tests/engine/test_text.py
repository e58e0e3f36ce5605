"""Pieces of text from pieces of characters."""

import pytest

from pronk.engine.text import TextStream, cut

TEXT = "Bär 猫 🦙! THE END. more"


def decode(ids):
    """One token a byte: any character but ASCII is broken on the way."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(data, stops=(), step=1):
    stream, found = TextStream(decode, stops), []
    for start in range(0, len(data), step):
        stream.push(data[start : start + step])
        found.append(stream.take())
        if stream.stopped:
            return stream, found
    stream.push([], final=True)
    return stream, [*found, stream.take(final=True)]


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("times", [1, 9])
def test_pieces_join_to_the_whole_and_never_break_a_character(step, times):
    text = TEXT * times
    stream, found = pieces(list(text.encode()), step=step)
    assert "".join(found) == text == stream.text
    assert not any("\ufffd" in piece for piece in found)


def test_bytes_that_are_no_text_come_out_at_the_end():
    data = list(b"ab") + [0xF0, 0x9F]
    assert "".join(pieces(data)[1]) == decode(data)
    data = [0xFF, *b"ok", 0xFF]
    assert "".join(pieces(data)[1]) == decode(data)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_stop_text_is_found_across_token_borders_and_never_shown(step):
    stream, found = pieces(list(TEXT.encode()), stops=("END.", "zzz"), step=step)
    assert stream.stopped
    assert "".join(found) == stream.text == "Bär 猫 🦙! THE "


def test_what_may_begin_a_stop_text_is_held_back_until_it_is_clear():
    stream = TextStream(decode, ("\n\nUser",))
    stream.push(list(b"Hi\n\nUs"))
    assert stream.take() == "Hi"
    stream.push(list(b"ually"))
    assert stream.take() == "\n\nUsually"


def test_the_earliest_stop_text_wins():
    assert cut("a STOP b END c", ("END", "STOP")) == "a "
    assert cut("nothing", ("END",)) == "nothing"
    assert cut("nothing", ()) == "nothing"
