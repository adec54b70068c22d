"""How does gunicorn run the web process? One process with a few threads: requests are short and wait for the database.

Every name here is a setting of gunicorn; a flag on its command line (``--bind``) wins over it.
"""

bind = "127.0.0.1:9090"
worker_class = "gthread"
workers = 1
threads = 8
timeout = 120  # Label Studio waits 100 s for a prediction
graceful_timeout = 10
keepalive = 15
limit_request_fields = 60
limit_request_line = 4094
control_socket_disable = True  # else each of them opens one and the same socket in the home folder
