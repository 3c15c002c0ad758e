"""``recon3d serve``: a page and an HTTP API on this machine, with the engine of ``photo`` and ``video``.

Requests → security → app → store (a queue in SQLite) ← pool → worker processes → results on disk.
The server's process loads no network and decodes no picture: whatever a file does to its reader, it does to
a worker, which is replaced.
"""
