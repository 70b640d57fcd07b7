"""Jobs whose worker died: how often they are retried, and on which worker."""

from kontext.local.dead_worker_retries import GIVEN_UP, MAX_DEATHS
from kontext.local.jobs import Status
from kontext.local.queue import Queue
from kontext.local.store import Store
from tests.local.stored_jobs import known, queued, running, taken


def test_a_job_whose_worker_died_is_run_alone(store: Store) -> None:
    """The job may have killed its worker, so no other job shares its next worker."""
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
    assert taken(store, "d") == fourth  # no worker of its two jobs has died


def test_a_suspect_waits_for_a_worker_without_jobs(store: Store) -> None:
    """A worker that runs another job gets the suspect only when that job has ended."""
    suspect = running(store)
    harmless = queued(store)
    store.take("b")
    store.release("a", died=True)

    assert taken(store, "b") is None
    store.finish(harmless, "b", {"output": 1})
    assert taken(store, "b") == suspect


def test_a_dead_workers_jobs_are_requeued(store: Store) -> None:
    """Another worker gets them; the jobs of other workers are not touched."""
    orphan, other = running(store), queued(store)
    store.take("b")

    assert store.release("a", died=True) == [orphan]
    assert known(store, other).status == Status.IN_PROGRESS
    taken = store.take("c")
    assert taken is not None
    assert (taken.id, taken.worker) == (orphan, "c")
    assert store.running_workers() == {"b", "c"}


def test_a_job_fails_after_three_deaths(store: Store) -> None:
    """The third death fails the job; after a client's retry three more workers may die."""
    job_id = queued(store)
    for _ in range(2):
        for _ in range(MAX_DEATHS):
            assert known(store, job_id).status == Status.IN_QUEUE
            store.take("a")
            store.release("a", died=True)
        assert known(store, job_id).envelope()["error"] == GIVEN_UP
        assert known(store, job_id).status == Status.FAILED
        store.retry(job_id)


def test_a_shutdown_or_replacement_counts_against_no_job(store: Store) -> None:
    """A job is never given up for a restart of the server or for a worker that it replaced."""
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
