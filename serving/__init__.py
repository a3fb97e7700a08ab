"""HTTP in, HTTP out: the tasks of `models` as a server on Ray Serve."""
