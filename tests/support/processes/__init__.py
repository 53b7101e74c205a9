"""The project's programs as processes of their own."""
