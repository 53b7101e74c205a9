"""Other services' protocols, so that their clients work unchanged.

    perspective/     Google's Perspective API
    openai.py        OpenAI's moderations
    huggingface.py   text classification of Hugging Face's clients and of its inference server
    litellm.py       LiteLLM's generic guardrail
    served.py        which protocols are served, and their routes
    protocol.py      what a protocol has: paths, credentials, the form of its errors
    mapping.py       what other services' names mean in ours: reads mapping.toml
    texts.py         scores for a protocol: the batcher, thresholds, versions in the reply
    lenient.py       reads bodies as other services do, whatever their type

No protocol knows another. ``docs/migrating.md`` is the guide.
"""
