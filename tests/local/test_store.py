"""The durable queue: every step of a job, what a restart keeps, and when a job is forgotten."""

import asyncio
import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kontext.local.dead_worker_retries import GIVEN_UP, MAX_DEATHS
from kontext.local.expiry import TIMEOUT_ERROR, delete_expired, set_ttl, time_out_overdue
from kontext.local.job_table import Job
from kontext.local.jobs import DAY, SECOND, InvalidBody, Policy, Status, Submission
from kontext.local.queue import Queue
from kontext.local.store import Store

EDIT = Submission(input={"prompt": "at night"})
NOON = 1_700_000_000.0
TEN_MINUTES, HALF_AN_HOUR, A_DAY = 600.0, 1800.0, 86_400.0


@dataclass
class Clock:
    """A clock that goes when a test says so."""

    now: float = NOON

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at noon."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the queue."""
    return tmp_path / "queue.sqlite"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    """An empty queue."""
    store = Store(path, clock)
    yield store
    store.close()


def queued(store: Store) -> str:
    return store.add(EDIT, sync=False).id


def running(store: Store) -> str:
    job_id = queued(store)
    store.take("a")
    return job_id


def completed(store: Store) -> str:
    job_id = running(store)
    store.finish(job_id, "a", {"output": {"cost": 1}})
    return job_id


def failed(store: Store) -> str:
    job_id = running(store)
    store.finish(job_id, "a", {"error": "no"})
    return job_id


def cancelled(store: Store) -> str:
    job_id = queued(store)
    store.cancel(job_id)
    return job_id


def timed_out(store: Store) -> str:
    """Return a job whose worker was too slow, however the clock stands."""
    slow = Submission(input={}, policy=Policy.model_construct(executionTimeout=-1, ttl=DAY))
    job_id = store.add(slow, sync=False).id
    store.take("a")
    time_out_overdue(store)
    return job_id


Make = Callable[[Store], str]
ALL: list[Make] = [queued, running, completed, failed, cancelled, timed_out]
FINAL: list[Make] = [completed, failed, cancelled, timed_out]


def taken(store: Store, worker: str) -> str | None:
    job = store.take(worker)
    return job.id if job else None


def known(store: Store, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


# ---- Steps


@pytest.mark.parametrize(("make", "status"), list(zip(ALL, Status, strict=True)))
def test_each_way_to_a_state_leads_there(store: Store, make: Make, status: Status) -> None:
    """A job can be brought into each of Runpod's six states."""
    assert known(store, make(store)).status == status


@pytest.mark.parametrize("sync", [True, False], ids=["runsync", "run"])
def test_ids_tell_how_a_job_came(store: Store, sync: bool) -> None:
    """Ids have Runpod's form, and no two are equal."""
    ids = [store.add(EDIT, sync).id for _ in range(2)]

    assert len(set(ids)) == 2
    assert all(job_id.startswith("sync-") == sync and job_id.endswith("-u1") for job_id in ids)


def test_the_high_priority_and_then_the_oldest_goes_first(store: Store) -> None:
    """Low priority waits for all others; among equals the order of arrival counts."""
    low = Submission(input={}, policy=Policy(lowPriority=True))
    arrived = [store.add(job, sync=False).id for job in (low, EDIT, low, EDIT)]

    taken = [store.take("a") for _ in range(5)]

    assert [job.id if job else None for job in taken] == [arrived[i] for i in (1, 3, 0, 2)] + [None]


def test_a_worker_gets_input_and_bucket_but_not_the_rest(store: Store) -> None:
    """What the worker does not need, it does not get."""
    submission = Submission.model_validate(
        {"input": {"a": 1}, "s3Config": {"bucketName": "b"}, "webhook": "http://example.com"}
    )
    store.add(submission, sync=False)

    job = store.take("a")

    assert job is not None
    assert job.body == {"input": {"a": 1}, "s3Config": {"bucketName": "b"}}


@pytest.mark.parametrize(
    ("make", "worker"),
    [(queued, "a"), (running, "b"), *((make, "a") for make in FINAL)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_only_the_worker_that_has_a_job_is_heard(store: Store, make: Make, worker: str) -> None:
    """Results, progress and chunks from any other worker, or twice, change nothing."""
    job_id = make(store)
    before = known(store, job_id).envelope()

    store.record_progress(job_id, worker, {"percent": 50})
    store.add_chunk(job_id, worker, {"output": 1})
    accepted = store.finish(job_id, worker, {"output": "late"})

    assert not accepted
    assert known(store, job_id).envelope() == before
    assert known(store, job_id).chunks == []


def test_a_result_replaces_progress(store: Store) -> None:
    """Progress is the output until there is one."""
    job_id = running(store)

    store.record_progress(job_id, "a", {"percent": 50})
    assert known(store, job_id).envelope()["output"] == {"percent": 50}
    store.finish(job_id, "a", {"error": "no"})
    assert "output" not in known(store, job_id).envelope()


def test_a_chunk_is_read_once_and_in_order(store: Store) -> None:
    """Reading the stream empties it, also after the end."""
    job_id = running(store)
    for number in range(3):
        store.add_chunk(job_id, "a", number)
    store.finish(job_id, "a", {})

    reads = [store.read_chunks(job_id) for _ in range(2)]

    assert [chunks for _, chunks in filter(None, reads)] == [[0, 1, 2], []]


@pytest.mark.parametrize("make", ALL)
def test_cancelling_ends_what_has_not_ended(store: Store, make: Make) -> None:
    """A waiting or running job is cancelled; its worker must be told only if it has one."""
    job_id = make(store)
    before = known(store, job_id).status

    found = store.cancel(job_id)

    assert found is not None
    assert found[1] == (before == Status.IN_PROGRESS)
    assert known(store, job_id).status == (before if before.is_final else Status.CANCELLED)


@pytest.mark.parametrize("make", ALL)
def test_retrying_needs_a_failure(store: Store, make: Make) -> None:
    """A failed or timed out job is queued anew, with nothing of its past; no other is touched."""
    job_id = make(store)
    before = known(store, job_id).envelope()

    found = store.retry(job_id)

    assert found is not None
    assert found[1] == (make in {failed, timed_out})
    after = known(store, job_id).envelope()
    assert after == ({"id": job_id, "status": "IN_QUEUE"} if found[1] else before)


def test_a_retried_job_is_like_a_new_one(store: Store, clock: Clock) -> None:
    """Its former end neither shows nor lets it be forgotten."""
    job_id = failed(store)
    store.retry(job_id)
    store.take("b")
    clock.now += HALF_AN_HOUR + 1

    assert delete_expired(store) == []
    assert known(store, job_id).envelope() == {
        "id": job_id, "status": "IN_PROGRESS", "delayTime": 0, "workerId": "b"
    }  # fmt: skip


def test_purging_takes_only_what_waits(store: Store) -> None:
    """Every waiting job is cancelled, and no other."""
    others = {make: make(store) for make in (running, completed, failed, timed_out)}
    waiting = [queued(store) for _ in range(3)]

    assert store.purge() == waiting
    assert {known(store, job_id).status for job_id in waiting} == {Status.CANCELLED}
    assert all(known(store, job_id).status != "CANCELLED" for job_id in others.values())


def test_nobody_knows_an_unknown_job(store: Store) -> None:
    """Asking for it is answered with nothing, and changes nothing."""
    asked = [store.get("x"), store.read_chunks("x"), store.cancel("x"), store.retry("x")]

    assert asked == [None] * 4
    assert not store.finish("x", "a", {})
    assert store.counts() == {"retried": 0}


def test_health_counts_every_job_once(store: Store) -> None:
    """Counts by state add up; each return to the queue counts as a retry."""
    orphan, again, *_ = [make(store) for make in (running, failed, *FINAL)]
    store.release("a", died=True)
    store.retry(again)

    taken = store.take("b")

    assert taken is not None
    assert taken.id == orphan
    assert store.counts() == dict.fromkeys(Status, 1) | {"retried": 2}


# ---- Dead workers and restarts


def test_a_job_whose_worker_died_is_run_alone(store: Store) -> None:
    """It may have killed it: of what it could take along, nothing is with it."""
    first, second, third = (queued(store) for _ in range(3))
    store.take("a")
    store.take("a")
    store.release("a", died=True)

    assert known(store, first).status == known(store, second).status == Status.IN_QUEUE
    assert taken(store, "b") == first
    assert taken(store, "b") is None
    assert taken(store, "c") == second
    assert taken(store, "d") == third
    store.finish(first, "b", {"output": 1})
    assert taken(store, "b") is None  # nothing waits
    fourth = queued(store)
    assert taken(store, "d") == fourth  # neither of its two was ever with a dead worker


def test_a_suspect_waits_for_a_worker_without_jobs(store: Store) -> None:
    """One that runs another job gets it only when that has ended."""
    suspect = running(store)
    harmless = queued(store)
    store.take("b")
    store.release("a", died=True)

    assert taken(store, "b") is None
    store.finish(harmless, "b", {"output": 1})
    assert taken(store, "b") == suspect


def test_a_dead_workers_jobs_go_back(store: Store) -> None:
    """They are handed to another worker; the jobs of the living stay where they are."""
    orphan, other = running(store), queued(store)
    store.take("b")

    assert store.release("a", died=True) == [orphan]
    assert known(store, other).status == Status.IN_PROGRESS
    taken = store.take("c")
    assert taken is not None
    assert (taken.id, taken.worker) == (orphan, "c")
    assert store.running_workers() == {"b", "c"}


def test_a_job_outlives_so_many_workers_and_no_more(store: Store) -> None:
    """The third death fails it; a client's retry gives it three workers anew."""
    job_id = queued(store)
    for _ in range(2):
        for _ in range(MAX_DEATHS):
            assert known(store, job_id).status == Status.IN_QUEUE
            store.take("a")
            store.release("a", died=True)
        assert known(store, job_id).envelope()["error"] == GIVEN_UP
        assert known(store, job_id).status == Status.FAILED
        store.retry(job_id)


def test_an_end_that_was_asked_for_counts_against_no_job(store: Store) -> None:
    """Neither a restart of the server nor a worker that it replaces says anything of a job."""
    job_id = queued(store)
    for _ in range(2 * MAX_DEATHS):
        store.take("a")
        store.release("a", died=False)
        store.take("a")
        Queue(store)

    assert known(store, job_id).status == Status.IN_QUEUE
    assert taken(store, "b") == job_id
    beside = queued(store)
    assert taken(store, "b") == beside


@pytest.mark.parametrize("make", ALL)
def test_a_restart_loses_nothing(store: Store, path: Path, make: Make) -> None:
    """Waiting jobs and results are there as they were; running ones wait for a worker again."""
    job_id = make(store)
    before = known(store, job_id).envelope()
    store.close()

    after = known(Queue(Store(path)).store, job_id).envelope()

    assert after == ({"id": job_id, "status": "IN_QUEUE"} if make is running else before)


def test_a_restart_keeps_the_order_and_the_input(store: Store, path: Path) -> None:
    """The queue goes on where it stopped."""
    arrived = [store.add(Submission(input={"number": n}), sync=False).id for n in range(3)]
    store.close()

    taken = [Store(path).take("a") for _ in range(3)]

    assert [job.id for job in taken if job] == arrived
    assert [job.body["input"] for job in taken if job] == [{"number": n} for n in range(3)]


# ---- Time


def test_times_are_whole_milliseconds(store: Store, clock: Clock) -> None:
    """`delayTime` lasts until the worker had it, `executionTime` from there to the end."""
    job_id = queued(store)
    assert known(store, job_id).envelope() == {"id": job_id, "status": "IN_QUEUE"}
    clock.now += 0.0184
    store.take("a")
    started = {"id": job_id, "status": "IN_PROGRESS", "delayTime": 18, "workerId": "a"}
    assert known(store, job_id).envelope() == started
    clock.now += 4.5212
    store.finish(job_id, "a", {"output": 1})

    ended = {"status": "COMPLETED", "executionTime": 4521, "output": 1}
    assert known(store, job_id).envelope() == started | ended


def test_a_clock_set_back_makes_no_negative_times(store: Store, clock: Clock) -> None:
    """A laptop that corrects its clock shows 0."""
    job_id = queued(store)
    clock.now -= 100
    store.take("a")

    assert known(store, job_id).envelope()["delayTime"] == 0


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [(Policy(), TEN_MINUTES), (Policy(executionTimeout=5 * SECOND), 5.0)],
    ids=["default", "5 s"],
)
def test_a_job_may_run_as_long_as_its_policy_says(
    store: Store, clock: Clock, policy: Policy, seconds: float
) -> None:
    """Waiting does not count; a moment too long ends it, and its worker must be told."""
    job_id = store.add(Submission(input={}, policy=policy), sync=False).id
    clock.now += 1000
    store.take("a")
    clock.now += seconds
    assert time_out_overdue(store) == []
    clock.now += 0.1

    assert [(job.id, job.worker) for job in time_out_overdue(store)] == [(job_id, "a")]
    job = known(store, job_id)
    assert (job.status, job.answer) == (Status.TIMED_OUT, {"error": TIMEOUT_ERROR})


@pytest.mark.parametrize(
    ("sync", "seconds"), [(False, HALF_AN_HOUR), (True, 60.0)], ids=["run", "runsync"]
)
def test_results_are_kept_as_long_as_runpod_keeps_them(
    store: Store, clock: Clock, sync: bool, seconds: float
) -> None:
    """They are there for their time, counted from the end, and then gone."""
    job_id = store.add(EDIT, sync).id
    clock.now += 3600
    store.take("a")
    store.finish(job_id, "a", {"output": 1})
    clock.now += seconds
    assert delete_expired(store) == []
    assert known(store, job_id).answer == {"output": 1}
    clock.now += 0.1

    assert delete_expired(store) == []
    assert store.get(job_id) is None


@pytest.mark.parametrize("make", [queued, running])
def test_a_job_lives_no_longer_than_its_ttl(store: Store, clock: Clock, make: Make) -> None:
    """A day after it came it is forgotten in any state, and its worker must be told."""
    job_id = make(store)
    clock.now += A_DAY
    assert delete_expired(store) == []
    clock.now += 0.1

    assert [job.id for job in delete_expired(store)] == [job_id]
    assert store.get(job_id) is None
    assert not store.finish(job_id, "a", {})


def test_a_forgotten_job_leaves_nothing_behind(store: Store, clock: Clock, path: Path) -> None:
    """Neither input nor keys nor result stay in the file."""
    for make in ALL:
        make(store)
    clock.now += A_DAY + 1
    delete_expired(store)
    store.close()

    with contextlib.closing(sqlite3.connect(path)) as file:
        tables = file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        left = {name: file.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    assert left == {"jobs": [], "payloads": []}


def test_a_life_can_be_shortened(store: Store, clock: Clock) -> None:
    """`?ttl=` counts from now."""
    job_id = queued(store)
    clock.now += 100
    set_ttl(store, job_id, 6)
    clock.now += 6
    assert delete_expired(store) == []
    clock.now += 0.1

    assert [job.id for job in delete_expired(store)] == [job_id]


# ---- Waiting


@pytest.mark.parametrize(
    ("seconds", "status"), [(TEN_MINUTES, Status.TIMED_OUT), (A_DAY, None)], ids=["late", "old"]
)
async def test_who_waits_for_a_job_learns_that_its_time_is_up(
    store: Store, clock: Clock, seconds: float, status: Status | None
) -> None:
    """Its client is answered and its worker told to stop it, at once."""
    queue = Queue(store)
    slow = Policy() if status else Policy(executionTimeout=7 * DAY)
    job_id = store.add(Submission(input={}, policy=slow), sync=False).id
    store.take("a")
    waiting = asyncio.create_task(queue.wait_until_finished(job_id, 60))
    telling = asyncio.create_task(queue.wait_for_jobs_to_stop("a", 60))
    await asyncio.sleep(0)
    clock.now += seconds + 1

    tending = asyncio.create_task(queue.run_housekeeping())
    async with asyncio.timeout(20):
        job, told = await waiting, await telling
    tending.cancel()

    assert (job and job.status) == status
    assert told == [job_id]


@pytest.mark.parametrize("end", [Queue.close_worker, partial(Queue.release, died=True)])
async def test_a_drained_or_dead_workers_polls_end_empty(
    store: Store, end: Callable[[Queue, str], None]
) -> None:
    """Neither those under way nor later ones take what another could do."""
    queue = Queue(store)
    polls = [
        asyncio.create_task(queue.take("a", 60)),
        asyncio.create_task(queue.wait_for_jobs_to_stop("a", 60)),
    ]
    await asyncio.sleep(0)
    end(queue, "a")
    job = queue.submit(EDIT, sync=False)

    async with asyncio.timeout(20):
        assert [await poll for poll in polls] == [None, []]
        assert await queue.take("a", 60) is None
        taken = await queue.take("b", 60)
    assert taken is not None
    assert taken.id == job.id


# ---- Webhooks

WATCHED = Submission.model_validate({"input": {}, "webhook": "http://example.com/done"})


def watched(store: Store) -> Job:
    """Return a job that has failed, with a webhook."""
    job_id = store.add(WATCHED, sync=True).id
    store.take("a")
    store.finish(job_id, "a", {"error": "no"})
    return known(store, job_id)


def test_a_webhook_is_due_from_the_end_until_it_is_done(store: Store) -> None:
    """Before the end, after the last try and without a webhook nothing is due."""
    completed(store)
    assert store.due_webhooks() == []
    job = watched(store)
    store.add(WATCHED, sync=True)

    for tries in (0, 1, 2):
        assert [due.deliveries for due in store.due_webhooks()] == [tries]
        store.record_delivery(job, tries + 1)
    store.record_delivery(job, None)
    assert store.due_webhooks() == []


def test_a_result_waits_for_its_webhook(store: Store, clock: Clock) -> None:
    """It is not forgotten while the webhook is still to be called."""
    job = watched(store)
    clock.now += A_DAY
    delete_expired(store)
    assert store.get(job.id)

    store.record_delivery(job, None)
    delete_expired(store)
    assert store.get(job.id) is None


def test_a_retry_makes_the_old_delivery_void(store: Store, clock: Clock) -> None:
    """Nothing is due while the job waits again, and its second end is announced too."""
    before = watched(store)
    store.retry(before.id)
    assert store.due_webhooks() == []
    clock.now += 1
    store.take("b")
    store.finish(before.id, "b", {})

    store.record_delivery(before, None)

    assert [due.deliveries for due in store.due_webhooks()] == [0]


# ---- Bodies

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

FIELDS = st.sampled_from(["input", "webhook", "policy", "s3Config", "other"])
NUMBERS = st.floats()  # NaN and infinities among them, as Python writes them


@pytest.mark.hostile("fuzzed inputs")
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_a_client_sends_is_what_a_worker_gets(sent: dict[str, Any]) -> None:
    """Any JSON object survives the door and the file."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "queue.sqlite")
        store.add(Submission.parse(json.dumps({"input": sent}).encode()), sync=False)
        job = store.take("a")
        store.close()

    assert job is not None
    assert job.body["input"] == sent


@pytest.mark.hostile("fuzzed inputs")
@settings(max_examples=200, deadline=None)
@given(
    st.binary()
    | st.dictionaries(FIELDS, JSON | st.dictionaries(st.text(), NUMBERS)).map(
        lambda body: json.dumps(body).encode()
    )
)
def test_whatever_comes_is_valid_or_refused(body: bytes) -> None:
    """No body has any other effect than a refusal, or a submission that is JSON again."""
    with contextlib.suppress(InvalidBody):
        assert json.dumps(Submission.parse(body).input, allow_nan=False).startswith("{")


# ---- All together


@dataclass
class Expected:
    """What the model knows of a job."""

    order: tuple[bool, int]
    status: Status = Status.IN_QUEUE
    worker: str | None = None
    deaths: int = 0


class Machine(RuleBasedStateMachine):
    """Clients, workers, deaths and restarts in any order, beside a model of what must come of it.

    A job that were lost, ended twice or moved along no allowed edge would differ from the model.
    """

    ids = Bundle("ids")
    workers = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.jobs: dict[str, Expected] = {}
        self.open()

    def open(self) -> None:
        """Open the file that the store before left, if there was one."""
        self.store = Store(Path(self.directory.name) / "queue.sqlite", self.clock)

    def of(self, status: Status) -> list[Expected]:
        """Return the jobs in a state, in the order of their turns."""
        jobs = sorted(self.jobs.values(), key=lambda job: job.order)
        return [job for job in jobs if job.status == status]

    @rule(target=ids, low=st.booleans())
    def add(self, low: bool) -> str:
        """A job comes."""
        policy = Policy(lowPriority=low, ttl=7 * DAY)
        job = self.store.add(Submission(input={}, policy=policy), sync=False)
        self.jobs[job.id] = Expected((low, len(self.jobs)))
        return job.id

    @rule(worker=workers)
    def take(self, worker: str) -> None:
        """A worker asks for one."""
        taken = self.store.take(worker)
        held = [job for job in self.of(Status.IN_PROGRESS) if job.worker == worker]
        waiting = self.of(Status.IN_QUEUE)
        suspects = any(job.deaths for job in held) or any(job.deaths for job in waiting[:1])
        if not waiting or (held and suspects):
            assert taken is None
            return
        assert taken is not None
        assert self.jobs[taken.id] is waiting[0]
        waiting[0].status, waiting[0].worker = Status.IN_PROGRESS, worker

    @rule(job_id=ids, worker=workers, answer=st.sampled_from([{"output": 1}, {"error": "no"}]))
    def finish(self, job_id: str, worker: str, answer: dict[str, Any]) -> None:
        """A worker posts a result, of whichever job."""
        job = self.jobs[job_id]
        mine = job.status == Status.IN_PROGRESS and job.worker == worker
        assert self.store.finish(job_id, worker, answer) == mine
        if mine:
            job.status = Status.FAILED if "error" in answer else Status.COMPLETED

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        """A client gives one up."""
        self.store.cancel(job_id)
        if not self.jobs[job_id].status.is_final:
            self.jobs[job_id].status = Status.CANCELLED

    @rule(job_id=ids)
    def retry(self, job_id: str) -> None:
        """A client tries again."""
        self.store.retry(job_id)
        if self.jobs[job_id].status in {Status.FAILED, Status.TIMED_OUT}:
            self.jobs[job_id].status, self.jobs[job_id].deaths = Status.IN_QUEUE, 0

    @rule()
    def purge(self) -> None:
        """A client empties the queue."""
        assert len(self.store.purge()) == len(self.of(Status.IN_QUEUE))
        for job in self.of(Status.IN_QUEUE):
            job.status = Status.CANCELLED

    @rule(worker=workers, died=st.booleans())
    def end(self, worker: str, died: bool) -> None:
        """A worker dies, or ends because it was told to."""
        self.store.release(worker, died)
        for job in self.of(Status.IN_PROGRESS):
            if job.worker == worker:
                job.deaths += died
                job.status = Status.FAILED if job.deaths == MAX_DEATHS else Status.IN_QUEUE

    @rule()
    def restart(self) -> None:
        """The server dies, and another comes."""
        self.store.close()
        self.open()
        Queue(self.store)
        for job in self.of(Status.IN_PROGRESS):
            job.status = Status.IN_QUEUE

    @rule()
    def wait(self) -> None:
        """Eleven minutes pass, and the server tidies up."""
        self.clock.now += 660
        overdue = self.of(Status.IN_PROGRESS)
        assert len(time_out_overdue(self.store)) == len(overdue)
        for job in overdue:
            job.status = Status.TIMED_OUT

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every job is there, once, in the state that the model expects."""
        found = {job_id: self.store.get(job_id) for job_id in self.jobs}
        assert {job_id: job and job.status for job_id, job in found.items()} == {
            job_id: job.status for job_id, job in self.jobs.items()
        }
        counts = self.store.counts()
        assert sum(counts.values()) - counts["retried"] == len(self.jobs)

    def teardown(self) -> None:
        """Remove the file."""
        self.store.close()
        self.directory.cleanup()


def test_no_order_of_events_loses_or_doubles_a_job() -> None:
    """Store and model agree after every step of any story."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
