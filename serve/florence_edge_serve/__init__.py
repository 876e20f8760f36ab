"""florence-serve: a bundle on the network.

    settings ── auth, limits, logs ──> app (routes) ──> service ──> batching (one engine thread)

The runtime knows nothing of it. `app.create_app` gives the ASGI application, `cli` the command.
"""
