"""The steps of a job in the durable queue, and what a restart of the server keeps."""

from pathlib import Path

import pytest

from kontext.local.expiry import delete_expired
from kontext.local.jobs import Policy, Status, Submission
from kontext.local.queue import Queue
from kontext.local.store import Store
from tests.local.stored_jobs import (
    ALL,
    EDIT,
    FINAL,
    HALF_AN_HOUR,
    WITH_WEBHOOK,
    Clock,
    Make,
    completed,
    failed,
    failed_with_webhook,
    known,
    queued,
    running,
    timed_out,
)


def test_the_high_priority_and_then_the_oldest_goes_first(store: Store) -> None:
    """Low priority waits for all others; at equal priority the order of arrival counts."""
    low = Submission(input={}, policy=Policy(lowPriority=True))
    arrived = [store.add(job, sync=False).id for job in (low, EDIT, low, EDIT)]

    taken = [store.take("a") for _ in range(5)]

    assert [job.id if job else None for job in taken] == [arrived[i] for i in (1, 3, 0, 2)] + [None]


def test_a_worker_gets_input_and_bucket_only(store: Store) -> None:
    """A worker does not need the webhook or the policy, so it does not get them."""
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
def test_only_the_worker_of_a_job_can_change_it(store: Store, make: Make, worker: str) -> None:
    """Results, progress and chunks of another worker, or after the end, change nothing."""
    job_id = make(store)
    before = known(store, job_id).envelope()

    store.record_progress(job_id, worker, {"percent": 50})
    store.add_chunk(job_id, worker, {"output": 1})
    accepted = store.finish(job_id, worker, {"output": "late"})

    assert not accepted
    assert known(store, job_id).envelope() == before
    assert known(store, job_id).chunks == []


def test_a_result_replaces_progress(store: Store) -> None:
    """Progress is shown as the output until there is a result."""
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
    """A waiting or running job is cancelled; the answer tells whether a worker runs it."""
    job_id = make(store)
    before = known(store, job_id).status

    found = store.cancel(job_id)

    assert found is not None
    assert found[1] == (before == Status.IN_PROGRESS)
    assert known(store, job_id).status == (before if before.is_final else Status.CANCELLED)


@pytest.mark.parametrize("make", ALL)
def test_retrying_needs_a_failure(store: Store, make: Make) -> None:
    """Only a failed or timed out job is requeued, and nothing of its last run is shown."""
    job_id = make(store)
    before = known(store, job_id).envelope()

    found = store.retry(job_id)

    assert found is not None
    assert found[1] == (make in {failed, timed_out})
    after = known(store, job_id).envelope()
    assert after == ({"id": job_id, "status": "IN_QUEUE"} if found[1] else before)


def test_a_retried_job_is_like_a_new_one(store: Store, clock: Clock) -> None:
    """The first run's end is not shown, and the job is not deleted for it."""
    job_id = failed(store)
    store.retry(job_id)
    store.take("b")
    clock.now += HALF_AN_HOUR + 1

    assert delete_expired(store) == []
    assert known(store, job_id).envelope() == {
        "id": job_id, "status": "IN_PROGRESS", "delayTime": 0, "workerId": "b"
    }  # fmt: skip


def test_purging_cancels_only_waiting_jobs(store: Store) -> None:
    """Every waiting job is cancelled, and no other job is touched."""
    others = {make: make(store) for make in (running, completed, failed, timed_out)}
    waiting = [queued(store) for _ in range(3)]

    assert store.purge() == waiting
    assert {known(store, job_id).status for job_id in waiting} == {Status.CANCELLED}
    assert all(known(store, job_id).status != "CANCELLED" for job_id in others.values())


def test_an_unknown_job_is_none(store: Store) -> None:
    """Each method returns `None` or `False` for it and changes nothing."""
    asked = [store.get("x"), store.read_chunks("x"), store.cancel("x"), store.retry("x")]

    assert asked == [None] * 4
    assert not store.finish("x", "a", {})
    assert store.counts() == {"retried": 0}


def test_health_counts_every_job_once(store: Store) -> None:
    """Each job counts for one state; each requeue counts as a retry."""
    orphan, again, *_ = [make(store) for make in (running, failed, *FINAL)]
    store.release("a", died=True)
    store.retry(again)

    taken = store.take("b")

    assert taken is not None
    assert taken.id == orphan
    assert store.counts() == dict.fromkeys(Status, 1) | {"retried": 2}


@pytest.mark.parametrize("make", ALL)
def test_a_restart_loses_nothing(store: Store, queue_file: Path, make: Make) -> None:
    """Waiting jobs and results are unchanged; running jobs are requeued."""
    job_id = make(store)
    before = known(store, job_id).envelope()
    store.close()

    after = known(Queue(Store(queue_file)).store, job_id).envelope()

    assert after == ({"id": job_id, "status": "IN_QUEUE"} if make is running else before)


def test_a_restart_keeps_the_order_and_the_input(store: Store, queue_file: Path) -> None:
    """Jobs are handed out in the order of their arrival, with their input."""
    arrived = [store.add(Submission(input={"number": n}), sync=False).id for n in range(3)]
    store.close()

    taken = [Store(queue_file).take("a") for _ in range(3)]

    assert [job.id for job in taken if job] == arrived
    assert [job.body["input"] for job in taken if job] == [{"number": n} for n in range(3)]


def test_a_webhook_is_due_from_the_jobs_end_until_the_last_try(store: Store) -> None:
    """Nothing is due before the job's end, after the last try, or without a webhook."""
    completed(store)
    assert store.due_webhooks() == []
    job = failed_with_webhook(store)
    store.add(WITH_WEBHOOK, sync=True)

    for tries in (0, 1, 2):
        assert [due.deliveries for due in store.due_webhooks()] == [tries]
        store.record_delivery(job, tries + 1)
    store.record_delivery(job, None)
    assert store.due_webhooks() == []


def test_a_retry_cancels_the_first_runs_delivery(store: Store, clock: Clock) -> None:
    """Nothing is due while the job waits again; the end of the second run makes it due."""
    before = failed_with_webhook(store)
    store.retry(before.id)
    assert store.due_webhooks() == []
    clock.now += 1
    store.take("b")
    store.finish(before.id, "b", {})

    store.record_delivery(before, None)

    assert [due.deliveries for due in store.due_webhooks()] == [0]
