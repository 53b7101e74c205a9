"""The Runpod front: a job in, a reply out, start and stop."""
