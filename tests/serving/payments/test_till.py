"""Settlements without an outcome close the till to the buyer whose they are, or to everybody."""

from __future__ import annotations

from hatespeech.serving.payments.till import UNKNOWN_IN_A_ROW, UNKNOWN_IN_A_WHILE, Till

ODD = "0xAb"


def test_odd_payments_of_one_buyer_close_the_till_to_this_buyer_alone() -> None:
    till = Till("x402")
    for _ in range(UNKNOWN_IN_A_ROW):
        assert not till.is_closed_to(ODD)
        till.note(ODD, known=False)
    assert till.is_closed_to(ODD)
    assert till.is_closed_to(ODD.lower())
    assert not till.is_closed_to("0xcd")


def test_those_of_several_buyers_in_a_row_close_it_to_everybody() -> None:
    till = Till("x402")
    for number in range(UNKNOWN_IN_A_ROW):
        assert not till.is_closed_to("0xcd")
        till.note(f"0x{number}", known=False)
    assert till.is_closed_to("0xcd")


def test_one_address_in_several_cases_is_one_buyer() -> None:
    till = Till("x402")
    for spelt in ("0xab", "0xaB", "0xAb"):
        till.note(spelt, known=False)
    assert not till.is_closed_to("0xcd")


def test_an_outcome_that_is_known_ends_the_row_but_many_in_a_while_close_it_all_the_same() -> None:
    till = Till("x402")
    for _ in range(UNKNOWN_IN_A_WHILE):
        assert not till.is_closed_to(ODD)
        till.note(ODD, known=False)
        till.note("0xcd", known=True)
    assert till.is_closed_to("0xcd")
