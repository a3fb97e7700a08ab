"""The commands of `foursight`, a module each."""
