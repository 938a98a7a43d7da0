"""The stand-in that answers kubelet's probes on a sleeping application's own ports.

``dialogue`` names what a conversation is, ``http1``, ``http2`` and ``tls`` are the three
protocols and ``sniff`` the choice between them: all pure, bytes in and bytes out. ``ports``
opens what the application listened on, and ``server`` is the edge that moves the bytes.
"""
