"""Classifiers over HTTP: FastAPI on uvicorn (the extra ``serve``).

``limits`` says what is refused and refuses it before it is read; ``batcher`` gathers texts into batches; ``routes`` and
``streaming`` are the endpoints, ``page.html`` the page to try it on; ``app`` puts them together and ``server`` runs it.
"""
