"""What does the lead of a labelling project see and press? Server-rendered pages under ``/dashboard``, behind the web process's auth."""

from coral_backend.dashboard.routes import register

__all__ = ["register"]
