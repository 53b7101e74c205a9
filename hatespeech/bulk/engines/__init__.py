"""What scores a bulk run: this machine, a Ray cluster, or a Runpod endpoint."""
