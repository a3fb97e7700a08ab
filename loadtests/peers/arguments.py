"""Command line of a peer: `python -m loadtests.peers.NAME --task detect --port 8481 [--engine]`."""

import argparse


def parse() -> argparse.Namespace:
    """Parse the task, the port, and whether to use our engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", required=True, choices=["classify", "detect", "segment"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="our engine instead of eager PyTorch")
    return parser.parse_args()
