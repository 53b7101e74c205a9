"""What stands in for others' services: real sockets on 127.0.0.1, and no internet."""
