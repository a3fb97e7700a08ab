"""Everything private or undocumented in Ray that the server relies on, with a check that it still exists.

environment      the RAY_* variables, and the private arguments of ray.init
loopback         keeps Ray's ports on loopback
signals          keeps the server's handler of SIGTERM while Ray starts
request_context  the ID of the request that is being answered
haproxy_config   hardens Serve's HAProxy configuration
checks           one entry per fact about Ray; the server does not start if one no longer holds
"""
