"""Descriptors that are streams: standard streams and sockets, and waiting that a pause can end.

In reading order: `descriptor` (what all kinds of descriptors have), `waiting`, `nonblocking`,
`standard`, `relayed_input`, `sockets`, `listen_address`.
"""
