"""Support tickets labelled by a chat model, the run killed twice on the way: each billed once, all there, in order."""

from tests.chat_fixtures import Job, label_of, run_killed


def test_tickets_are_labelled_once_though_the_run_is_killed_twice(job: Job) -> None:
    count = 2_000
    job.inputs = 100
    job.write_tickets(range(count), parts=3)
    run_killed(job, kill_at=(3, 11))
    assert job.said() == {f"t{number}": label_of(number) for number in range(count)}
    assert list(job.said()) == [f"t{number}" for number in range(count)]
    assert job.provider.books.batches == count // 100
    assert set(job.provider.books.runs.values()) == {1} and job.provider.books.runs.total() == count


def test_two_runs_at_once_pay_once(job: Job) -> None:
    job.inputs = 20
    job.write_tickets(range(200))
    processes = [job.start() for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert list(job.said().items()) == [(f"t{number}", label_of(number)) for number in range(200)]
    assert set(job.provider.books.runs.values()) == {1} and job.provider.books.batches == 10
