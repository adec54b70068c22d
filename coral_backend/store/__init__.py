"""What does CORAL remember? The only room that writes SQL; everybody else uses the verbs of ``Store``."""

from coral_backend.store.store import Lease, Store

__all__ = ["Lease", "Store"]
