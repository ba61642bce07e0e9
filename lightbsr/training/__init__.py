"""The commands ``train``, ``test`` and ``check``: option files are read, checked and handed to BasicSR's loops."""
