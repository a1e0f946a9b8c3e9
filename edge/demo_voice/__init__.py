"""A voice that answers, offline: a backend process of small parts that bring their models along.

It talks the ``frames`` protocol like any other backend and is no part of the edge's own process.
Nothing is downloaded: install the extra ``demo-voice``. See docs/demo-voice.md.
"""
