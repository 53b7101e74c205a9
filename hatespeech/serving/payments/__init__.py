"""Calls that are paid for: their price, the ways to pay, and the receipts.

    payment_settings.py   the settings of a server that sells
    shop.py               what is sold and how it is paid for, from the settings
    rail.py               what every way to pay has: an offer, a payment, a receipt
    x402.py               USDC or another token, by x402 version 2, scheme ``exact``
    nevermined.py         credits of a plan at Nevermined
    prices.py             what a request costs, by its texts
    terms.py              the header that names the price, and what directories read of it
    facilitator.py        the server that checks and settles payments
    coinbase.py           signs the requests to Coinbase's facilitator
    till.py               closed for a while if no settlement comes to an end
    paid_replies.py       payments that were taken, and replies for buyers who lost theirs
    receipts.py           the log, the metrics and the file of what was paid

:mod:`hatespeech.serving.guards.paywall` does the selling.
"""
