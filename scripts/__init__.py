"""What one runs in a checkout. The scripts in Python are imported by their tests."""
