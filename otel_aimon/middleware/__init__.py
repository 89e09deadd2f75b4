"""The limiter in front of a whole service: for ASGI, WSGI and gRPC servers."""
