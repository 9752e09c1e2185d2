"""The torch side of statml, installed as ``statml.adapters``.

Each adapter puts one deep-learning method behind ``fit`` / ``predict``. Importing this package needs no
torch; the adapters themselves need the extra ``statml[torch]``.
"""
