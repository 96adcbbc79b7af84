"""Prompts in files, and those that are put aside."""

import json

import pytest

from paljax.errors import UserError
from paljax.policy.prompt_files import hold_out, read_prompts

PROMPTS = [f"prompt {number}" for number in range(10)]


@pytest.mark.parametrize(("count", "share", "held_out"), [(10, 0.2, 2), (2, 0.2, 1), (3, 0.01, 1)])
def test_what_is_evaluated_on_is_not_trained_on(count, share, held_out):
    found = hold_out(PROMPTS[:count], share, seed=0)
    assert len(found.evaluation) == held_out
    assert {*found.train, *found.evaluation} == set(PROMPTS[:count])
    assert not {*found.train} & {*found.evaluation}


def test_all_are_both_where_nothing_is_put_aside():
    found = hold_out(PROMPTS, 0.0, seed=0)
    assert found.train == found.evaluation
    assert set(found.train) == set(PROMPTS)


def test_one_prompt_can_not_be_put_aside():
    with pytest.raises(UserError, match="leaves none of 1 prompts to train on; give more prompts"):
        hold_out(PROMPTS[:1], 0.2, seed=0)


def test_prompts_know_their_lines(tmp_path):
    texts = ["one", "two\u2028still two\x0bas ever", "one", "four"]
    (tmp_path / "p.txt").write_text("one\n\ntwo\u2028still two\x0bas ever\none\r\nfour")
    assert read_prompts(tmp_path / "p.txt") == {texts[0]: 1, texts[1]: 3, texts[3]: 5}
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in texts]
    (tmp_path / "p.jsonl").write_text("".join(lines))
    assert read_prompts(tmp_path / "p.jsonl") == {texts[0]: 1, texts[1]: 2, texts[3]: 4}
