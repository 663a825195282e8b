"""The network: libp2p host, gossip, discovery, catalogue sync, blob streams, and HTTP as a source.

The only room that knows libp2p and sockets. Nothing is imported here, because libp2p takes a second to import
and the HTTP source does not need it: import from ``peatnet.net.network`` and ``peatnet.net.http_source``.
"""
