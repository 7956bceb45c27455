"""ScoreStore: scores in an SQLite file or in memory, bounded, for threads and processes; a cache that never raises."""

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import Score
from sda_engine.forks import make_lock

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects.sqlite import insert
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.schema import CreateIndex, CreateTable
except ImportError as error:
    raise ImportError("CachedEvaluator needs SQLAlchemy: pip install 'sda-integrations[cache]'") from error

_logger = logging.getLogger(__name__)

_MAX_BYTES = 65_536  # of a score as JSON; longer ones are not kept
_BUSY_TIMEOUT = 2.0  # seconds to wait for another process that writes
_PAUSE = 30.0  # seconds without the database after it has failed, so that a broken one slows nobody down

_FAULTS = (SQLAlchemyError, sqlite3.Error, OSError)
_Result = TypeVar("_Result")

_SCORES = sa.Table(
    "sda_scores",
    sa.MetaData(),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("score", sa.LargeBinary, nullable=False),  # as JSON, in UTF-8
    sa.Column("checksum", sa.LargeBinary, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, index=True),  # nanoseconds since 1970
)


class CacheStatistics(NamedTuple):
    """What a CachedEvaluator has done so far, in this process.

    Attributes:
        hits: ratings that came from the cache.
        misses: ratings that the evaluator was asked for, those that failed included.
        faults: times that the database could not be used.
    """

    hits: int
    misses: int
    faults: int


class ScoreStore:
    """A table of scores in SQLite. It never raises: what cannot be read is a miss, what cannot be written is lost.

    Args:
        path: the file; None keeps the scores in memory.
        max_entries: scores to keep; the least recently used go first.
    """

    def __init__(self, path: Path | None, max_entries: int) -> None:
        self._path = path
        self._max_entries = max_entries
        self._batch = max_entries // 20  # entries that are let go of together, beyond what must go
        self._counting = make_lock()  # guards the counts alone, so that nobody waits for a statement to read them
        self._hits = self._misses = self._faults = 0
        self._using = make_lock()  # held while a statement runs, or else SQLite would hang in a process forked amid it
        self._engine: sa.Engine | None = None
        self._process_id = os.getpid()
        self._closed = False
        self._resumes_at = 0.0  # time.monotonic()

    @property
    def statistics(self) -> CacheStatistics:
        """Hits, misses and faults so far."""
        with self._counting:
            return CacheStatistics(self._hits, self._misses, self._faults)

    def close(self) -> None:
        """Let go of the database, once no statement runs; from then on everything is a miss."""
        with self._using:
            self._closed = True
            self._let_go()

    def get(self, keys: Sequence[bytes]) -> Score | None:
        """The score under the first key that has one; it becomes the most recently used."""
        score = self._run(lambda engine: self._find(engine, keys)) if keys else None
        with self._counting:
            self._hits += score is not None
            self._misses += score is None
        return score

    def put(self, key: bytes | None, score: Score) -> None:
        """Keep a score, and let go of the least recently used ones where there are too many."""
        if key is None:
            return
        try:
            content = _without_usage(score).model_dump_json().encode()
        except ValueError:  # lone surrogates in a reason
            return
        if len(content) <= _MAX_BYTES:
            self._run(lambda engine: self._write(engine, key, content))

    def _find(self, engine: sa.Engine, keys: Sequence[bytes]) -> Score | None:
        columns = [sa.cast(column, sa.LargeBinary) for column in (_SCORES.c.score, _SCORES.c.checksum)]
        for key in keys:
            # Two transactions: SQLite refuses to write at once in one that has read what another one changed since
            with engine.begin() as connection:
                row = connection.execute(sa.select(*columns).where(_SCORES.c.key == key)).first()
            if row is not None and (score := _read(key, row[0], row[1])) is not None:
                with engine.begin() as connection:
                    connection.execute(sa.update(_SCORES).where(_SCORES.c.key == key).values(used=time.time_ns()))
                return score
        return None

    def _write(self, engine: sa.Engine, key: bytes, content: bytes) -> None:
        row = {"score": content, "checksum": _checksum(key, content), "used": time.time_ns()}
        with engine.begin() as connection:
            statement = insert(_SCORES).values(key=key, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=row))
            count = connection.execute(sa.select(sa.func.count()).select_from(_SCORES)).scalar_one()
            if count > self._max_entries:
                excess = count - self._max_entries + self._batch
                oldest = sa.select(_SCORES.c.key).order_by(_SCORES.c.used).limit(excess)
                connection.execute(sa.delete(_SCORES).where(_SCORES.c.key.in_(oldest)))

    def _run(self, work: Callable[[sa.Engine], _Result]) -> _Result | None:
        """What comes of some work on the database; None where it cannot be used."""
        with self._using:
            try:
                engine = self._opened()
                return None if engine is None else work(engine)
            except _FAULTS as error:
                self._give_up_for_now(error)
                return None

    def _opened(self) -> sa.Engine | None:
        if self._closed or time.monotonic() < self._resumes_at:
            return None
        if self._engine is not None and self._process_id != os.getpid():
            self._engine.dispose(close=False)  # after a fork the connections are the parent's
            self._engine = None
        if self._engine is None:
            self._engine, self._process_id = _open(self._path), os.getpid()
        return self._engine

    def _let_go(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _give_up_for_now(self, error: Exception) -> None:
        self._let_go()
        self._resumes_at = time.monotonic() + _PAUSE
        with self._counting:
            self._faults += 1
            if self._faults > 1:
                return
        # The driver's own words: SQLAlchemy's would show the statement
        cause = error.orig if isinstance(error, DBAPIError) else error
        _logger.warning(
            "CachedEvaluator goes on without its database %s and tries it again after %g seconds (this is said once): "
            "%s. Make file and folder writable, or delete the file if it is broken.",
            self._path or "in memory",
            _PAUSE,
            cause,
        )


def _open(path: Path | None) -> sa.Engine:
    """A connection, once it is needed, to a database that has the table of scores."""
    if path is None:
        engine = _make_engine("sqlite://")
    else:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its further files the same mode
        engine = _make_engine(sa.URL.create("sqlite", database=str(path)))
    try:
        with engine.begin() as connection:
            connection.execute(CreateTable(_SCORES, if_not_exists=True))
            for index in _SCORES.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_engine(url: str | sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=1,  # only one is used at a time, and each would have a memory of its own
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT},
        hide_parameters=True,
    )
    sa.event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    """Let readers go on while one connection writes, and write without waiting for the disk."""
    with suppress(sqlite3.OperationalError):  # another process is just about to do the same
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()


def _read(key: bytes, content: object, checksum: object) -> Score | None:
    """The score in a row; None where the row is not one that was written under this key."""
    if not isinstance(content, bytes) or checksum != _checksum(key, content):
        return None
    try:
        return _as_score(json.loads(content))
    except (ConfigError, ValueError, TypeError, KeyError, RecursionError):  # written by another version of this package
        return None


def _as_score(fields: dict[str, Any]) -> Score:
    """A score from JSON, validated. JSON has lists where a Score has tuples."""
    members = tuple(_as_score(member) for member in fields["members"])
    return Score(**{**fields, "samples": tuple(fields["samples"]), "members": members, "failures": ()})


def _without_usage(score: Score) -> Score:
    return score.replace(usage=None, members=tuple(_without_usage(member) for member in score.members))
