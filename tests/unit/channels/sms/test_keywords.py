"""Keywords of incoming messages."""

import pytest

from tidings.channels.sms.keywords import SmsIntent, parse_intent


@pytest.mark.parametrize(
    "word", ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT", "stop", "Stop", " sToP \n"]
)
def test_opt_out(word: str) -> None:
    assert parse_intent(word) is SmsIntent.OPT_OUT


@pytest.mark.parametrize("text", ["STOP.", "stop!", '"Stop"', "ＳＴＯＰ", "\u200bstop"])
def test_an_opt_out_with_punctuation_is_one(text: str) -> None:
    assert parse_intent(text) is SmsIntent.OPT_OUT


@pytest.mark.parametrize("word", ["START", "YES", "UNSTOP", "start", " Yes "])
def test_opt_in(word: str) -> None:
    assert parse_intent(word) is SmsIntent.OPT_IN


@pytest.mark.parametrize("word", ["HELP", "INFO", "help", "Info\n"])
def test_help(word: str) -> None:
    assert parse_intent(word) is SmsIntent.HELP


@pytest.mark.parametrize("text", ["STOP PLEASE", "please stop", "stop stop", "Unsubscribe me", "don't ever stop"])
def test_an_opt_out_within_a_sentence_is_left_to_an_operator(text: str) -> None:
    assert parse_intent(text) is SmsIntent.REVIEW


@pytest.mark.parametrize(
    "text",
    ["", " ", "?", "stopping", "nonstop", "yes please", "cancel my order", "the end", "help me", "ok", "START 5"],
)
def test_other_messages_have_no_effect(text: str) -> None:
    assert parse_intent(text) is SmsIntent.OTHER
