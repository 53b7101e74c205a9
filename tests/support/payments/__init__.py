"""A market of this machine: a chain with a token, facilitators, and buyers.

- ``payment_chain``: anvil as Base's test network, with a token where USDC is
- ``Token.sol``: that token, and what facilitators read several values with
- ``facilitators``: PyPI's x402 on that chain, as slow or broken as a test likes
- ``x402_facilitator``: what that runs
- ``nevermined_stand_in``: the calls of Nevermined's API that buyer and seller make
- ``scripted``: a facilitator that answers what it is told
- ``buyer``: signs payments, good and bad, without a client's package
"""
