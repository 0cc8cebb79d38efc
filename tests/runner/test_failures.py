"""What a person is told of a trial that failed."""

from tune_ablation.runner.failures import reason_of

DEAD = """Failure # 1 (occurred at 2026-01-01)
The actor died unexpectedly before finishing this task.
\tclass_name: ResourceTrainable
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
\tpid: 1
"""


def test_a_dead_worker_is_named_by_why_it_died() -> None:
    assert reason_of(DEAD).startswith("The actor is dead because its worker process has died.")


def test_an_exception_is_named_by_its_own_line() -> None:
    assert reason_of("Failure # 1\nTraceback (most recent call last):\n  File ...\nValueError: no room\n") == "ValueError: no room"


def test_something_is_always_said() -> None:
    assert reason_of("") == "the worker died"
