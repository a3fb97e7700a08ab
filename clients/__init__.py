"""Foursight's client side: what people use to reach a server. It needs neither ray nor torch."""
