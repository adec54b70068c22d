"""What does CORAL remember? The only room that writes SQL; everybody else uses the verbs of ``Store``."""

from coral_backend.store.store import Store
from coral_backend.types import Lease

__all__ = ["Lease", "Store"]
