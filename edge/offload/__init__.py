"""Media by the batch: the native twin of what ``webrtc`` does for packets that are as usual.

A ``MediaSocket`` receives and sends many datagrams by one call, and opens and seals what sessions
lend to it (see ``edge/webrtc/offload.py``). It needs the extension, which is built where there is a
C compiler, and OpenSSL's libcrypto; without them a ``DatagramSocket`` does the same.
"""
