"""The account of an agent that is back: only tasks that may go on have gone on."""

import pytest

from broker_master.core.meetings import Meeting
from schemas.messages.liveness import TaskDecision, TaskStatus, Verdict

Said = list[tuple[str, Verdict]]


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ([("running", "keep")], "returned after 55 s: 1 task went on, 0 ended"),
        (
            [("running", "kill")],
            "returned after 55 s: 0 tasks went on, 0 ended, 1 had been given up, ended now",
        ),
        ([("succeeded", "report")], "returned after 55 s: 0 tasks went on, 1 ended"),
        (
            [("lost", "report"), ("failed", "report"), ("running", "keep")],
            "returned after 55 s: 1 task went on, 2 ended (1 lost)",
        ),
        ([], "returned after 55 s: 0 tasks went on, 0 ended"),
    ],
)
def test_task_that_was_given_up_has_not_gone_on(tasks: Said, told: str) -> None:
    meeting = Meeting(55.0, 0)
    meeting.judge(
        [TaskStatus(command=f"c{n}", attempt=1, state=state) for n, (state, _) in enumerate(tasks)],
        [TaskDecision(command=f"c{n}", attempt=1, verdict=v) for n, (_, v) in enumerate(tasks)],
    )
    assert meeting.told() == told
