"""Settings of the site, from environment variables; `.env.example` describes them.

With none set the site is complete on SQLite and process memory, in DATA_DIR.
DATABASE_URL makes it a production site: HTTPS is expected and SECRET_KEY required.
"""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.utils.csp import CSP
from environs import FileAwareEnv, ValidationError, validate

from resilient_site.cache.redis_url import cache_options
from resilient_site.observability import multiprocess
from resilient_site.operations.secret_key import check_secret_key, load_secret_key
from resilient_site.ratelimit.policies import (
    ANONYMOUS,
    ANY_CLASS,
    AUTHENTICATED,
    FAILED_SIGN_IN,
    NAME,
    UNVERIFIED,
    override_policies,
)
from resilient_site.resilience.deadlines import LOCK_WAIT_S, STATEMENT_S
from resilient_site.storage.urls import parse_storage

# A secret may be in a file, which NAME_FILE names.
env = FileAwareEnv(strip_whitespace=True)

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.str("DATA_DIR", "") or BASE_DIR / "var").resolve()
with suppress(OSError):  # a command may need none
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
DATABASE_URL = env.str("DATABASE_URL", "")
REDIS_URL = env.str("REDIS_URL", "")
EMBEDDED = not DATABASE_URL

DEBUG = env.bool("DEBUG", False)
SECRET_KEY = check_secret_key(
    env.str("SECRET_KEY", "") or load_secret_key(DATA_DIR, EMBEDDED)
)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", [".localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
# Whether one may read without an account.
PUBLIC_READ = env.bool("PUBLIC_READ", True)

# --- processes

at_least_one = validate.Range(min=1)
not_negative = validate.Range(min=0)
WEB_PROCESSES = env.int("WEB_PROCESSES", os.cpu_count() or 1, validate=at_least_one)
WEB_THREADS = env.int("WEB_THREADS", 8, validate=at_least_one)
WEB_MAX_REQUESTS = env.int("WEB_MAX_REQUESTS", 10_000_000, validate=not_negative)
WEB_KEEP_ALIVE_S = env.int("WEB_KEEP_ALIVE_S", 75, validate=at_least_one)

COMPUTE_BACKEND = env.str(
    "COMPUTE_BACKEND", "pool", validate=validate.OneOf(["pool", "celery"])
)
BROKER_URL = env.str("BROKER_URL", "amqp://guest:guest@localhost:5672//")
COMPUTE_PROCESSES = env.int(
    "COMPUTE_PROCESSES", os.cpu_count() or 1, validate=at_least_one
)
COMPUTE_GRACE_S = env.int("COMPUTE_GRACE_S", 20, validate=not_negative)
COMPUTE_MAX_QUEUED = env.int("COMPUTE_MAX_QUEUED", 1_000, validate=at_least_one)
COMPUTE_MAX_QUEUED_PER_OWNER = env.int(
    "COMPUTE_MAX_QUEUED_PER_OWNER", 500, validate=at_least_one
)
COMPUTE_KEEP_DAYS = env.int("COMPUTE_KEEP_DAYS", 30, validate=at_least_one)
COMPUTE_TASKS: list[str] = env.list("COMPUTE_TASKS", [])
EVENTS_URL = env.str("EVENTS_URL", "")
# Functions with the decorator of django.tasks run as jobs.
TASKS = {"default": {"BACKEND": "compute.django_tasks.JobBackend"}}

# --- Celery, with COMPUTE_BACKEND=celery

CELERY_BROKER_URL = BROKER_URL
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # for ever
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_TIMEOUT = 3
# A broker that is silent for twice as long is connected to anew: the network may have
# lost the connection without a word.
CELERY_BROKER_HEARTBEAT = 4
# Celery declares 28 queues for delayed messages beside a quorum queue; none is used.
CELERY_BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE = "classic"
CELERY_BROKER_TRANSPORT_OPTIONS = (
    {
        "socket_timeout": 3,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 4,
    }
    if BROKER_URL.startswith("redis")
    # A message is on the broker's disk when it has been published.
    else {"confirm_publish": True, "read_timeout": 3, "write_timeout": 3}
)
# An exclusive queue would be locked after a loss of the network, and RabbitMQ 4 has no
# others that are not durable.
CELERY_CONTROL_QUEUE_EXCLUSIVE = False
CELERY_CONTROL_QUEUE_DURABLE = True
CELERY_DB_REUSE_MAX = 1_000_000  # else each job opens a connection anew
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_DEFAULT_EXCHANGE_TYPE = "topic"  # for delayed messages
CELERY_TASK_DEFAULT_QUEUE = "compute"
CELERY_TASK_DEFAULT_QUEUE_TYPE = "quorum"  # of RabbitMQ
CELERY_TASK_IGNORE_RESULT = True  # it is in the database
CELERY_WORKER_CONCURRENCY = COMPUTE_PROCESSES
CELERY_WORKER_LOST_WAIT = 1  # for the result of a process that was killed
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 768 * 1024  # KiB; then it is replaced
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # without a file
CELERY_BEAT_SCHEDULE = {
    "clean up": {
        "task": "compute.clean_up",
        "schedule": 600,
        "options": {"expires": 600, "time_limit": 600},
    }
}

# --- applications, middleware, templates

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "knox",
    "axes",
    "django_htmx",
    "corsheaders",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "resilient_site",
    "items",
    "compute",
]

MIDDLEWARE = [
    "resilient_site.middleware.set_request_id",
    "django.middleware.security.SecurityMiddleware",
    "resilient_site.middleware.isolation",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "resilient_site.middleware.pass_identity",
    "resilient_site.middleware.ErrorMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "resilient_site.ratelimit.middleware.RateLimitMiddleware",
    # Inside those that add headers: a 304 keeps few of the headers it finds.
    "resilient_site.middleware.conditional_reads",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "resilient_site.middleware.PrivateSiteMiddleware",
]

ROOT_URLCONF = "resilient_site.urls"
ADMIN_PATH = env.str("ADMIN_PATH", "admin").strip("/") + "/"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- database: PostgreSQL by URL, else SQLite


DATABASES: dict[str, dict[str, Any]]
if EMBEDDED:
    DATABASES = {
        "default": {
            "ENGINE": "resilient_site.sqlite",
            "NAME": DATA_DIR / "site.sqlite3",
            "OPTIONS": {
                # Take the write lock at the start: upgrading a read lock cannot wait.
                "transaction_mode": "IMMEDIATE",
                # FULL: an acknowledged write survives a power cut.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            },
        }
    }
else:
    DATABASES = {"default": env.dj_db_url("DATABASE_URL")}


@env.parser_for("postgres_urls")
def parse_postgres_urls(value: str) -> list[dict[str, Any]]:
    try:
        urls = filter(None, map(str.strip, value.split(",")))
        found: list[dict[str, Any]] = [{**dj_database_url.parse(url)} for url in urls]
    except ValueError as error:
        raise ValidationError("Not valid database URLs.") from error
    is_postgres = all(one["ENGINE"].endswith("postgresql") for one in found)
    if found and (EMBEDDED or not is_postgres):
        raise ValidationError("Replicas are those of a PostgreSQL in DATABASE_URL.")
    return found


# Standbys that reads may go to: see postgres/replicas.py.
DATABASES |= {
    f"replica-{n}": replica | {"TEST": {"MIRROR": "default"}}
    for n, replica in enumerate(env.postgres_urls("DATABASE_REPLICA_URLS", ""), 1)
}
DATABASE_REPLICAS = [alias for alias in DATABASES if alias != "default"]
# What is asked five times a second is not known to be any younger than that.
DATABASE_REPLICA_MAX_LAG_S = env.float(
    "DATABASE_REPLICA_MAX_LAG_S", 2.0, validate=validate.Range(min=1)
)
DATABASE_REPLICA_APPS = {"items"}
if DATABASE_REPLICAS:
    DATABASE_ROUTERS = ["resilient_site.postgres.replicas.ReplicaRouter"]
    MIDDLEWARE.append("resilient_site.middleware.ReplicaMiddleware")


def complete(database: dict[str, Any]) -> None:
    database |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    if database["ENGINE"].endswith("postgresql"):
        database["ENGINE"] = "resilient_site.postgres"
        database["OPTIONS"] = {
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            # The last option ends queries of connections that have broken.
            "options": f"-c statement_timeout={STATEMENT_S:g}s"
            f" -c lock_timeout={LOCK_WAIT_S:g}s"
            " -c client_connection_check_interval=1s",
        } | database.get("OPTIONS", {})


for database in DATABASES.values():
    complete(database)
if env.str("DATABASE_DIRECT_URL", ""):
    # A pooler refuses `options`, and gives each transaction another session.
    DATABASES["default"]["OPTIONS"].pop("options", None)
    DATABASES["default"]["DIRECT"] = env.dj_db_url("DATABASE_DIRECT_URL")
    complete(DATABASES["default"]["DIRECT"])

# --- cache: Redis by URL, else process memory

# The timeout of a connect to Redis, and of a command.
CACHE_TIMEOUT_MS = env.int("CACHE_TIMEOUT_MS", 50, validate=at_least_one)
CACHE_MEMORY_BYTES = env.int(
    "CACHE_MEMORY_BYTES", 32 * 1024 * 1024, validate=not_negative
)


def caches(url: str) -> dict[str, dict[str, Any]]:
    """Return CACHES for the Redis at `url`; for process memory without one."""
    options: dict[str, dict[str, Any]] = {
        "default": {},
        # A sign-out in another process is not seen in memory: the database decides.
        "sessions": {"MEMORY_BYTES": 0},
        "rates": {"MEMORY_BYTES": 8 * 1024 * 1024, "USES_GENERATION": False},
        # The edge has a cache of its own in memory in front of these, and knows of each
        # whether it is current: an outage of Redis for one process must not void them.
        "responses": {
            "MEMORY_BYTES": 0,
            "USES_GENERATION": False,
            "COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor",
        },
    }
    backend = "backend.ResilientRedisCache" if url else "memory.MemoryCache"
    location, of_redis = cache_options(url, CACHE_TIMEOUT_MS / 1000)
    return {
        alias: {
            "BACKEND": f"resilient_site.cache.{backend}",
            "LOCATION": location or alias,
            "OPTIONS": of_redis | options[alias],
        }
        for alias in options
    }


CACHES = caches(REDIS_URL)
SESSION_ENGINE = "resilient_site.accounts.sessions"
SESSION_CACHE_ALIAS = "sessions"

# --- accounts

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "resilient_site.accounts.backends.NameLimit",
    "resilient_site.accounts.backends.Permissions",
    "django.contrib.auth.backends.ModelBackend",
    "resilient_site.accounts.backends.NameFailures",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account:sign-in"
LOGIN_REDIRECT_URL = "items:list"
LOGOUT_REDIRECT_URL = "items:list"

AXES_FAILURE_LIMIT = env.int("LOGIN_FAILURE_LIMIT", 5)
AXES_COOLOFF_TIME = timedelta(minutes=env.int("LOGIN_LOCKOUT_MINUTES", 15))
# Both together, or one user could lock another out from elsewhere.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "resilient_site.ratelimit.middleware.client_address"
AXES_LOCKOUT_CALLABLE = "resilient_site.errors.locked_out"
AXES_USERNAME_CALLABLE = "resilient_site.accounts.views.attempted_username"
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False

KNOX_TOKEN_MODEL = "resilient_site.ApiToken"  # noqa: S105 - a model's name
MIGRATION_MODULES = {"knox": None}  # knox's own table is not used
REST_KNOX = {"TOKEN_TTL": timedelta(days=90)}

# --- REST

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "resilient_site.api.authentication.TokenAuthentication",
        "resilient_site.api.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["resilient_site.api.authentication.ReadOrWrite"],
    "DEFAULT_RENDERER_CLASSES": ["resilient_site.api.json_format.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["resilient_site.api.json_format.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "resilient_site.api.json_format.FirstRenderer",
    "DEFAULT_SCHEMA_CLASS": "resilient_site.api.schema.ProblemSchema",
    "EXCEPTION_HANDLER": "resilient_site.errors.rest_exception_handler",
    # `format` is a parameter of the export and selects no renderer.
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Resilient Site",
    "DESCRIPTION": (
        "A catalogue of reference data, readable all day. Writing needs an API token; "
        "reading is open, unless the site is private. Errors are problem documents "
        "(RFC 9457) with a stable `code`. Unknown members and parameters are rejected; "
        "with `Prefer: handling=lenient` they are ignored. A trailing slash is "
        "optional."
    ),
    "CONTACT": {"name": "The operators of this site"},
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "SERVERS": [{"url": "/", "description": "This site."}],
    "TAGS": [
        {"name": "items", "description": "The catalogue."},
        {"name": "collections", "description": "Code lists, and lookup of codes."},
        {"name": "tags", "description": "Words that group items of any collection."},
        {"name": "changes", "description": "The change feed, to keep a copy by."},
        {"name": "batches", "description": "Changes made, and undone, together."},
        {"name": "tasks", "description": "The kinds of heavy work."},
        {"name": "jobs", "description": "Runs of a task on the process pool."},
    ],
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["resilient_site.api.authentication.ReadOrWrite"],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "resilient_site.api.schema.complete",
    ],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "ChangeAction": "items.models.ItemChange.Action",
        "JobState": "compute.models.Job.State",
    },
}
# Other sites whose pages may call the REST API, by a token: no cookie is accepted.
CORS_ALLOWED_ORIGINS: list[str] = env.list("CORS_ALLOWED_ORIGINS", [])
CORS_ALLOW_ALL_ORIGINS = "*" in CORS_ALLOWED_ORIGINS
if CORS_ALLOW_ALL_ORIGINS:
    CORS_ALLOWED_ORIGINS = []
if CORS_ALLOWED_ORIGINS or CORS_ALLOW_ALL_ORIGINS:
    # Outside of all that may respond.
    MIDDLEWARE.insert(1, "corsheaders.middleware.CorsMiddleware")
CORS_URLS_REGEX = "^/api/"
CORS_ALLOW_HEADERS = (
    "accept", "authorization", "content-type", "idempotency-key", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
    "last-event-id", "prefer", "range", "traceparent", "x-request-id",
    "x-request-timeout",
)  # fmt: skip
CORS_EXPOSE_HEADERS = (
    "accept-ranges", "age", "cache-status", "content-disposition", "content-range",
    "etag", "idempotent-replayed", "link", "location", "preference-applied",
    "ratelimit", "ratelimit-policy", "retry-after", "www-authenticate", "x-request-id",
)  # fmt: skip
REQUIRE_IF_MATCH = env.bool("REQUIRE_IF_MATCH", False)

# --- limits

MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", 16 * 1024 * 1024)
IMPORT_MAX_BYTES = env.int("IMPORT_MAX_BYTES", 256 * 1024 * 1024)
# Of bodies under way in a process; one client may have half of it.
BODIES_MAX_BYTES = env.int(
    "BODIES_MAX_BYTES", 2 * max(IMPORT_MAX_BYTES, MAX_BODY_BYTES)
)
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_000  # of a collection with 200 attributes
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # a form, without its files

# --- resilience

READ_CACHE = env.bool("READ_CACHE", True)
READ_CACHE_BYTES = env.int("READ_CACHE_BYTES", 64 * 1024 * 1024)
LAST_KNOWN_BYTES = env.int("LAST_KNOWN_BYTES", 256 * 1024 * 1024)
LAST_KNOWN_REDIS_BYTES = env.int(
    "LAST_KNOWN_REDIS_BYTES", 64 * 1024 * 1024, validate=not_negative
)
# Of disk, and of Redis; both make a stale response at most half a second late.
LAST_KNOWN_TIMEOUT_S = env.float("LAST_KNOWN_TIMEOUT_S", 0.25)
ADMISSION = env.bool("ADMISSION", True)
# How long a request may wait for one of Django's threads rather than be rejected.
ADMISSION_PATIENCE_S = {
    "anonymous_read": env.float("ADMISSION_PATIENCE_ANONYMOUS_S", 1.0),
    "authenticated_read": env.float("ADMISSION_PATIENCE_AUTHENTICATED_S", 2.0),
    "write": env.float("ADMISSION_PATIENCE_WRITE_S", 5.0),
    "heavy": env.float("ADMISSION_PATIENCE_HEAVY_S", 5.0),
}
DEADLINES_S = {
    "read": env.float("DEADLINE_READ_S", 10.0),
    "write": env.float("DEADLINE_WRITE_S", 30.0),
    "heavy": env.float("DEADLINE_HEAVY_S", 3600.0),
}
# PostgreSQL is unavailable if it does not answer for so long, or longer if it is far.
HEARTBEAT_TIMEOUT_S = env.float("HEARTBEAT_TIMEOUT_S", 0.5)
# How long a request waits for a lock in the database.
LOCK_WAITS_S = {
    "read": env.float("LOCK_WAIT_READ_S", 0.25),
    "write": env.float("LOCK_WAIT_WRITE_S", 0.8),
}
# By name: class of requests, kind of client, quota, window in seconds. The quotas of
# anonymous clients allow for whole offices behind one address.
RATE_LIMITS = override_policies(
    {
        "sign-in": ("sign-in", ANONYMOUS, 120, 60),
        "sign-in-name": (FAILED_SIGN_IN, NAME, 20, 3600),
        "unproven-token": (ANY_CLASS, UNVERIFIED, 600, 60),
        "anonymous-read": ("read", ANONYMOUS, 6_000, 60),
        "anonymous-write": ("write", ANONYMOUS, 600, 60),
        "anonymous-export": ("export", ANONYMOUS, 30, 60),
        "anonymous-heavy": ("heavy", ANONYMOUS, 30, 60),
        "read": ("read", AUTHENTICATED, 6_000, 60),
        "write": ("write", AUTHENTICATED, 1_200, 60),
        "export": ("export", AUTHENTICATED, 30, 60),
        "heavy": ("heavy", AUTHENTICATED, 600, 60),
        "tokens": ("tokens", AUTHENTICATED, 60, 60),
    },
    env.str("RATE_LIMITS", ""),
)
RATELIMIT_USE_CACHE = "rates"
RATELIMIT_FAIL_OPEN = True

# --- security

# Behind a proxy Uvicorn takes the scheme from X-Forwarded-Proto, if the proxy is in
# gunicorn's forwarded_allow_ips.
HTTPS = env.bool("HTTPS", not EMBEDDED)
SECURE_SSL_REDIRECT = HTTPS
# Probes and scrapes come from inside, without TLS.
SECURE_REDIRECT_EXEMPT = ["^(livez|readyz|metrics)/?$"]
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
# A browser takes a cookie of such a name from this host alone, over HTTPS.
COOKIE_PREFIX = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME = f"{COOKIE_PREFIX}sessionid"
CSRF_COOKIE_NAME = f"{COOKIE_PREFIX}csrftoken"
DEVICE_COOKIE_NAME = f"{COOKIE_PREFIX}device"
# Of a client that has written, where there are replicas.
WRITTEN_COOKIE_NAME = f"{COOKIE_PREFIX}written"
SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", 365 * 24 * 3600) if HTTPS else 0
# HSTS for subdomains and preload lists is for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_CSP: dict[str, list[str]] = {
    "default-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "object-src": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
    "frame-ancestors": [CSP.NONE],
}
CSRF_FAILURE_VIEW = "resilient_site.errors.csrf_failure"

# --- language, time, static files

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_THOUSAND_SEPARATOR = True

STATIC_URL = "static/"
# With STATIC_ROOT, names have the hash of the content, so that files can be cached
# for ever.
STATIC_ROOT = env.str("STATIC_ROOT", "") or None
WHITENOISE_USE_FINDERS = STATIC_ROOT is None
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if STATIC_ROOT
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
# Uploads and files of jobs, if they are not in the database.
if storage_of_files := parse_storage(env.str("FILES_URL", "")):
    STORAGES["files"] = storage_of_files

# --- observability

SENTRY_DSN = env.str("SENTRY_DSN", "")
RELEASE = env.str("RELEASE", "")
# OpenTelemetry's SDK also reads this itself, and its other variables.
OTEL_EXPORTER_OTLP_ENDPOINT = env.str("OTEL_EXPORTER_OTLP_ENDPOINT", "")
LOG_FORMAT = env.str(
    "LOG_FORMAT",
    "console" if EMBEDDED else "json",
    validate=validate.OneOf(["console", "json"]),
)
ACCESS_LOG = env.str("ACCESS_LOG", "1", validate=validate.OneOf(["0", "1", "all"]))
# Behind a proxy it is the address that the proxy names which counts.
METRICS_ALLOW: list[str] = env.list("METRICS_ALLOW", ["127.0.0.0/8", "::1"])


@env.parser_for("host_and_port")
def parse_host_and_port(value: str) -> tuple[str, int] | None:
    if not value:
        return None
    with suppress(ValueError):
        url = urlsplit(f"//{value}")
        if url.hostname and url.port and url.netloc == value:
            return url.hostname, url.port
    raise ValidationError("Not an address and port, such as 0.0.0.0:9464.")


METRICS_BIND: tuple[str, int] | None = env.host_and_port("METRICS_BIND", "")
if METRICS_BIND or "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    multiprocess.share(DATA_DIR)  # before anything imports prometheus_client
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "resilient_site.observability.logging.line_formatter",
            "style": LOG_FORMAT,
        }
    },
    "filters": {
        "unexpected": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: (
                getattr(record, "status_code", 500) not in {*range(400, 500), 503}
            ),
        },
    },
    "handlers": {
        "stderr": {
            "()": "resilient_site.observability.logging.LineHandler",
            "formatter": "line",
        },
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        # A deliberate 4xx or 503 is no error; its cause is logged once, elsewhere.
        "django.request": {"filters": ["unexpected"]},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        # Anyone can send any host name; the answer is 400, without a traceback.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # Lines about each message.
        "celery.app.trace": {"level": "ERROR"},
        "celery.worker.strategy": {"level": "WARNING"},
        # Uvicorn's worker copies its handlers.
        "gunicorn.error": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}

if SENTRY_DSN:
    from resilient_site.observability import sentry

    sentry.start(SENTRY_DSN, RELEASE)
