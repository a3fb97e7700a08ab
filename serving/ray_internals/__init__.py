"""Everything in Ray that is private or undocumented and that the server relies on, with a check that it still holds.

environment     the RAY_* variables, and the private arguments of ray.init
loopback        what keeps Ray's ports on loopback
haproxy_config  how Serve's HAProxy configuration is hardened
checks          one entry per fact about Ray; the start stops with the first that no longer holds
"""
