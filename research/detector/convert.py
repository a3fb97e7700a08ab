"""Read the SSD's parameters out of the package's graph into the user's cache.

python -m research.detector.convert
"""

from research.detector.networks import ssd_weights


def main() -> None:
    """Do what the first use of the weights does."""
    state = ssd_weights.state_dict()
    print(f"{ssd_weights.CACHED}: {len(state)} tensors, {sum(value.numel() for value in state.values()):,} numbers")


if __name__ == "__main__":
    main()
