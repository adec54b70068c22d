"""How does CORAL start a Label Studio of its own, reach it, and leave nothing behind?

Label Studio pins versions of rq and redis that exclude current ones, so it lives in an environment of its own and is
only ever a child process here. Its stdout is not under our control, so the credentials go in through the environment
(never argv, which every user of the machine can read) and stay in one file that only the owner can read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from coral_backend.exceptions import ConflictError, LabelStudioError

__all__ = ["LabelStudioServer"]

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_SECONDS = 300.0
"""How long a first start may take: it runs some hundred database migrations."""
STOP_SECONDS = 10.0
LOG_BYTES = 20 * 2**20
"""A log file larger than this is put aside (one generation) before the next start."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""All that the child sees of our environment: Label Studio reads bare names such as ``HOST``, ``CI`` or ``PASSWORD`` as
settings of its own, and our keys are none of its business."""

_BOOT = """
import ctypes, os, signal, sys
os.umask(0o077)
parent = int(os.environ.pop("CORAL_PARENT_PID"))
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
except AttributeError:
    pass
if os.getppid() != parent:
    sys.exit("the process that asked for Label Studio is gone")
from label_studio.server import main
sys.argv[0] = "label-studio"
sys.exit(main())
"""
"""Runs in the child: ask the kernel to end us with our parent (PR_SET_PDEATHSIG = 1), then become Label Studio."""

_MAKE_IT = (
    "from users.models import User; from jwt_auth.models import LSAPIToken; "
    "print('CORAL-TOKEN', LSAPIToken.for_user(User.objects.get(email={email!r})).get_full_jwt())\n"
)
"""Typed into ``label-studio shell`` when the account has a token already, whose text Label Studio no longer tells."""


class LabelStudioServer:
    """A Label Studio on SQLite in `data_dir`, on loopback only; a second start goes on with the same data.

    Start it from a thread that lives as long as the server should: the kernel ends the server when that thread ends,
    which is what leaves nothing behind after a crash.

    Parameters
    ----------
    venv : Path
        The environment that has ``label-studio`` installed.
    data_dir : Path
        Database, uploads, log and credentials; made with mode 0700.
    port : int or None
        None takes the port of the last start if it is free, else any free one.
    email : str
        Account made at the first start; its login in the browser.
    password : str or None
        None makes one at the first start and keeps it in ``credentials.json`` (mode 0600).
    legacy_tokens : bool
        Whether the organisation accepts legacy tokens; counts at the first start only.
    env : mapping, optional
        Further variables for Label Studio; they win over ours.

    Raises
    ------
    LabelStudioError
        If there is no Label Studio in `venv`, or `port` is taken.
    ConflictError
        If another process already runs one on `data_dir`.
    """

    def __init__(
        self,
        venv: Path,
        data_dir: Path,
        port: int | None = None,
        email: str = "coral@localhost.local",
        password: str | None = None,
        *,
        legacy_tokens: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.venv = Path(venv).absolute()
        self.data_dir = Path(data_dir).absolute()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._kept = self._read_credentials()
        self.email = email
        self.password = password or self._kept_for(email, "password") or secrets.token_urlsafe(15)
        self._asked_port = port
        self._port: int | None = None
        self._legacy_tokens = legacy_tokens
        self._extra_env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    # --- what one asks it ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address without a slash at the end.

        Raises
        ------
        LabelStudioError
            Before ``start``.
        """
        if self._port is None:
            raise LabelStudioError("Label Studio was not started here, so it has no address. Call start() first.")
        return f"http://{HOST}:{self._port}"

    @property
    def log_file(self) -> Path:
        """What Label Studio printed."""
        return self.data_dir / "label_studio.log"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and return at once; ``wait_ready`` waits for it."""
        if self.pid is not None:
            return
        python = self._python()
        lock = self._lock()
        try:
            self._port = self._choose_port()
            self._keep(port=self._port, password=self.password)
            with self._open_log() as log:
                self._process = subprocess.Popen(
                    [str(python), "-c", _BOOT, "start", "--no-browser", "--internal-host", HOST, "-p", str(self._port)],
                    env=self._environment() | {"CORAL_PARENT_PID": str(os.getpid())},
                    cwd=self.data_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        logger.info("label studio: starting on %s (pid %d, data in %s)", self.url, self._process.pid, self.data_dir)

    def wait_ready(self, timeout_s: float = START_SECONDS, progress: Callable[[float], None] | None = None) -> None:
        """Return when Label Studio answers; `progress` is called with the seconds waited.

        Raises
        ------
        LabelStudioError
            If the process ended, with the last lines of its log, or did not answer in time.
        """
        began = time.monotonic()
        while (waited := time.monotonic() - began) < timeout_s:
            if self.pid is None:
                raise LabelStudioError(
                    f"Label Studio ended while it started. {self.log_file} ends with: {self._log_tail()!r}."
                )
            if self._answers():
                logger.info("label studio: ready after %.1f s", waited)
                return
            if progress is not None:
                progress(waited)
            time.sleep(0.25)
        raise LabelStudioError(
            f"Label Studio did not answer on {self.url} within {timeout_s:.0f} s. {self.log_file} may say why; "
            "a slow disk needs a larger timeout."
        )

    def stop(self) -> None:
        """End the process and all its children; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        for signum, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            try:
                process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                logger.warning("label studio: pid %d ignores signal %d", process.pid, signum)

    def __enter__(self) -> LabelStudioServer:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- token ---------------------------------------------------------------------------------------------------

    def api_token(self) -> str:
        """Return a personal access token of the account, the kept one as long as Label Studio takes it.

        Raises
        ------
        LabelStudioError
            If the login is refused or no token could be made.
        """
        kept = self._kept_for(self.email, "token")
        if kept and self._takes(kept):
            return kept
        token = self._token_by_login() or self._token_by_shell()
        self._keep(token=token)
        return token

    def _takes(self, token: str) -> bool:
        try:
            return httpx.post(
                f"{self.url}/api/token/refresh/", json={"refresh": token}, timeout=30, trust_env=False
            ).is_success
        except httpx.HTTPError:
            return False

    def _token_by_login(self) -> str | None:
        """Log in as a browser does and ask for a token; None when the account has one already (HTTP 409)."""
        try:
            with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as browser:
                browser.get("/user/login/").raise_for_status()
                form = {"email": self.email, "password": self.password}
                answer = browser.post(
                    "/user/login/",
                    data=form | {"csrfmiddlewaretoken": browser.cookies.get("csrftoken") or ""},
                )
                if answer.status_code != 302:
                    raise LabelStudioError(
                        f"Label Studio refuses the login of {self.email!r}. The password is the one of the first start, "
                        f"kept in {self._credentials}; set a new one with `label-studio reset_password`."
                    )
                made = browser.post("/api/token/", headers={"X-CSRFToken": browser.cookies.get("csrftoken") or ""})
        except httpx.HTTPError as error:
            raise LabelStudioError(f"Label Studio on {self.url} gave no token: {type(error).__name__}.") from error
        if made.status_code == 409:
            return None
        if not made.is_success or not made.json().get("token"):
            raise LabelStudioError(f"Label Studio answered HTTP {made.status_code} when asked for an access token.")
        return str(made.json()["token"])

    def _token_by_shell(self) -> str:
        done = subprocess.run(
            [str(self._python()), "-m", "label_studio.server", "shell"],
            input=_MAKE_IT.format(email=self.email).encode(),
            env=self._environment(),
            cwd=self.data_dir,
            capture_output=True,
            timeout=120,
            check=False,
        )
        found = re.search(rb"CORAL-TOKEN (\S+)", done.stdout)
        if found is None:
            raise LabelStudioError(
                f"Label Studio's shell made no access token for {self.email!r} (exit status {done.returncode}). "
                "Make one in its interface (Account & Settings, Personal Access Token) and set LABEL_STUDIO_API_KEY."
            )
        return found[1].decode()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _python(self) -> Path:
        python = self.venv / "bin" / "python"
        if not python.exists() or not list(self.venv.glob("lib/python3*/site-packages/label_studio/server.py")):
            raise LabelStudioError(
                f"No Label Studio in {self.venv}. `make demo` and `make test` make its environment; or point to one that has "
                "`pip install label-studio==1.23.2`."
            )
        return python

    def _environment(self) -> dict[str, str]:
        ours = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data_dir),
            "LABEL_STUDIO_DJANGO_DB": "sqlite",
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            # Without it Label Studio calls neither a backend nor a webhook on a loopback or private address.
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": str(self._legacy_tokens).lower(),
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
        }
        return {key: os.environ[key] for key in _PASSED_ON if key in os.environ} | ours | self._extra_env

    def _choose_port(self) -> int:
        """Return a free port. Label Studio itself would silently take another one than the one it was told."""
        if self._asked_port is not None:
            if not _is_free(self._asked_port):
                raise LabelStudioError(
                    f"Port {self._asked_port} is taken on {HOST}. Stop what listens there, or leave the port out to get a "
                    "free one."
                )
            return self._asked_port
        last = self._kept.get("port")
        if isinstance(last, int) and _is_free(last):
            return last
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return int(probe.getsockname()[1])

    def _lock(self) -> int:
        """Return a locked file descriptor; the child inherits it, so the lock lives as long as the server does."""
        path = self.data_dir / "server.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConflictError(
                f"A Label Studio already runs on {self.data_dir}. Use that one, stop it, or take another folder."
            ) from None
        return descriptor

    def _open_log(self) -> Any:
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return os.fdopen(os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def _log_tail(self, characters: int = 600) -> str:
        try:
            text = self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return text[-characters:].replace(self.password, "***").strip()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    # --- credentials -------------------------------------------------------------------------------------------------

    @property
    def _credentials(self) -> Path:
        return self.data_dir / "credentials.json"

    def _read_credentials(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._credentials.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _kept_for(self, email: str, key: str) -> str | None:
        value = self._kept.get(key) if self._kept.get("email") == email else None
        return value if isinstance(value, str) else None

    def _keep(self, **values: Any) -> None:
        if self._kept.get("email") != self.email:
            self._kept = {"email": self.email}
        self._kept |= values
        new = self._credentials.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self._kept, file)
        new.replace(self._credentials)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
