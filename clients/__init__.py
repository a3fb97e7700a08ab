"""How people reach a server: the Python SDK and the command line."""
