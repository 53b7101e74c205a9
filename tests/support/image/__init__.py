"""The image: built with buildah, looked into, and run."""
