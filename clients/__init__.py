"""The ways to use a server: the Python SDK and the command line."""
