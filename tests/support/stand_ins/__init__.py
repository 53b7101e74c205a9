"""What stands in for others' services: real sockets on 127.0.0.1, and no internet.

- ``app_thread``: an aiohttp application in a thread, on which the others are built
- ``file_server``: files to download, and the model hub, as slow or broken as a test likes
- ``runpod``: a serverless endpoint, for workers and for callers
- ``snet_daemon``, ``snet_client``: SingularityNET's daemon, its configuration, and who calls it
- ``snet_payments``, ``paid_daemon``: the rules by which it takes payment, on a chain
- ``chain``, ``ipfs``, ``marketplace``: where a service is published and channels are opened
"""
