"""Programs that serve models. Each engine is a module with the same names.

A module offers ``find_engines``, ``find_engine``, ``probe``, ``arguments``, ``launch``, ``parse_load`` and
``explain_exit`` with the signatures of :mod:`narthex.engines.llama_server`.
"""
