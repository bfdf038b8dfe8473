"""HTTP/1.1 on asyncio transports: a server and a client of which little is needed and much is demanded.

Knows nothing of routing. Bytes are parsed by httptools (llhttp, strict); what it lets pass and RFC 9112
forbids is refused here.
"""
