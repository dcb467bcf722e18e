"""ASGI middleware: body limits, security headers, request metrics."""
