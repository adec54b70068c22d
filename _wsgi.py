"""What does gunicorn serve? ``gunicorn -c python:coral_backend.gunicorn_conf _wsgi:app``."""

from coral_backend import logs
from coral_backend.app import create_app
from coral_backend.settings import Settings

settings = Settings.load()
logs.configure(settings)
app = create_app(settings)
