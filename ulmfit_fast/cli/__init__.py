"""The ``ulmfit-fast`` command, a command a file."""
