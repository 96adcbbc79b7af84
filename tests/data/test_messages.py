"""What is read of chat messages, and of texts that only look like them."""

import json

import pytest

from paljax.data.messages import as_read, is_messages, written

TEXT = "First line.\n- a point\n# A heading, \"quoted\" \\ and 'é'"


def message(content, role="assistant"):
    return {"role": role, "content": content}


@pytest.mark.parametrize("role", ["assistant", "user"])
def test_a_message_alone_reads_as_its_content(role):
    assert as_read(written([message(TEXT, role)])) == as_read(TEXT) == TEXT


def test_of_several_messages_it_is_read_who_speaks():
    item = written([message("Tea?", "user"), message("Yes,\nplease.")])
    assert as_read(item) == "user: Tea?\n\nassistant: Yes,\nplease."
    # Who said what is not forgotten where the words are the same.
    assert as_read(written([message("Tea?"), message("Yes,\nplease.", "user")])) != as_read(item)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        json.dumps([message("spaces between")]),
        '[{"content":"cut',
        '[{"content":"a","role":"b"},{"content":"no role"}]',
        '[{"content":"a","content":"b","role":"twice"}]',
        '[{"content":1,"role":"a number"}]',
        '[{"content":"a","name":"a key more","role":"b"}]',
        '[{"content":' + "[" * 100_000,
    ],
)
def test_a_text_that_is_no_written_messages_reads_as_it_is(text):
    assert as_read(text) == text


def test_messages_are_a_list_of_contents_and_roles():
    assert is_messages([message("a"), message("b")])
    assert not any(map(is_messages, ([], "ab", [{}], [message(1)], message("a"), [["a", "b"]])))
