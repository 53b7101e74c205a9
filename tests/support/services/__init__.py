"""Services that run beside the server: real ones, from Debian's packages, one for a test."""
