"""Alerts: what is told, when, once, and what ends a run."""

import json
import math
from pathlib import Path

import pytest

from tracking.alerts import (
    GRACE,
    HOPELESS_EXIT,
    MASK_STREAK,
    STREAK,
    Alert,
    AlertTracker,
    alerts,
    effective_classes,
)

K = 10
EVEN = [1 / K] * K
TWO_LEFT = [0.5, 0.4, *[0.1 / 8] * 8]  # 3.0 effective classes
LOST_ONE = [0.0, *[1 / 9] * 9]


def row(epoch: int, *, refined=EVEN, target=EVEN, hard=None, mask=0.5, **more):
    shares = {"refined": refined, "target": target, "refined_hard": hard or refined}
    per_class = {f"pseudo/{name}/{k}": v for name, values in shares.items() for k, v in enumerate(values)}
    return {"epoch": epoch, "loss/total": 1.0, "test/bacc": 0.5, "pseudo/mask_rate": mask} | per_class | more


def kinds(rows, **options) -> list[str]:
    return [alert.kind for alert in alerts(rows, **options)]


def test_a_healthy_run_raises_none() -> None:
    assert alerts([row(epoch) for epoch in range(40)]) == []


def test_the_effective_number_of_classes_counts_equal_shares() -> None:
    assert effective_classes(EVEN) == pytest.approx(K)
    assert effective_classes([0.5, 0.5, 0.0]) == pytest.approx(2)


def test_a_collapse_is_told_when_it_lasts_and_names_reason_and_remedy() -> None:
    rows = [row(epoch, refined=TWO_LEFT, hard=EVEN) for epoch in range(GRACE + STREAK)]
    assert kinds(rows[:-1]) == []
    (alert,) = alerts(rows)
    assert (alert.kind, alert.epoch) == ("collapse", GRACE + STREAK - 1)
    assert "class 0 has 50%" in alert.reason
    assert "--darp" in alert.remedy
    (refined,) = alerts([r | {"darp/solves": 50.0, "darp/unconverged": 0.0} for r in rows])
    assert "--alpha" in refined.remedy


def test_few_classes_at_the_start_or_for_a_moment_are_normal() -> None:
    start = [row(epoch, refined=TWO_LEFT, hard=LOST_ONE) for epoch in range(GRACE)]
    moment = [
        row(epoch, refined=TWO_LEFT if epoch % STREAK else EVEN, hard=EVEN) for epoch in range(GRACE, 30)
    ]
    assert alerts(start + moment) == []


def test_a_long_tail_that_is_asked_for_is_no_collapse() -> None:
    tail = [0.6 * 0.45**k for k in range(K)]
    tail = [share / sum(tail) for share in tail]
    assert alerts([row(epoch, refined=tail, target=tail) for epoch in range(20)]) == []


def test_a_dead_class_is_told_only_if_it_stays_the_same_one() -> None:
    dead = [row(epoch, hard=LOST_ONE) for epoch in range(GRACE + STREAK)]
    assert kinds(dead) == ["dead class"]
    assert "class 0" in alerts(dead)[0].reason
    wandering = [row(epoch, hard=LOST_ONE if epoch % 2 else LOST_ONE[::-1]) for epoch in range(20)]
    assert alerts(wandering) == []


@pytest.mark.parametrize(("of_its_share", "expected"), [(0.049, ["dead class"]), (0.051, [])])
def test_a_class_is_dead_below_a_twentieth_of_its_target_share(
    of_its_share: float, expected: list[str]
) -> None:
    target = [0.4, *[0.6 / 9] * 9]
    hard = [0.4 * of_its_share, *[(1 - 0.4 * of_its_share) / 9] * 9]
    rows = [row(epoch, target=target, refined=target, hard=hard) for epoch in range(GRACE + STREAK)]
    assert kinds(rows) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_loss_that_is_not_finite_is_told_at_once(value: float | None) -> None:
    (alert,) = alerts([row(0), row(1, **{"loss/u": value})])
    assert (alert.kind, alert.epoch) == ("loss", 1)
    assert "loss/u" in alert.reason
    assert "--lr" in alert.remedy


def test_a_refinement_that_fails_in_two_epochs_is_told() -> None:
    failing = {"darp/solves": 50.0, "darp/unconverged": 10.0, "darp/residual": 0.3}
    assert kinds([row(0, **failing)]) == []
    assert (
        kinds([row(0, **failing), row(1, **(failing | {"darp/unconverged": 1.0})), row(2, **failing)]) == []
    )
    assert kinds([row(0, **failing), row(1, **failing)]) == ["refinement"]


@pytest.mark.parametrize(("mask", "kind"), [(0.0, "mask 0"), (1.0, "mask 1")])
def test_a_threshold_that_no_longer_selects_is_told_to_methods_that_use_one(mask: float, kind: str) -> None:
    rows = [row(epoch, mask=mask) for epoch in range(GRACE + MASK_STREAK)]
    assert kinds(rows) == [kind]
    assert kinds(rows[:-1]) == []
    assert kinds(rows, thresholded=False) == []
    assert kinds([r | {"test/bacc": 0.95} for r in rows]) == ([kind] if mask == 0 else [])


def watch(
    folder: Path, rows, told: list[Alert], *, first_epoch: int = 0, stop: bool = False, **config
) -> None:
    tracker = AlertTracker(folder, [told.append], stop=stop)
    tracker.start({"thresholded": True} | config, {}, first_epoch)
    for r in rows:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(r) + "\n")
        tracker.log(r)


def test_what_refinement_will_mend_is_no_news_before_it_begins() -> None:
    mended = [row(epoch, refined=TWO_LEFT, hard=LOST_ONE) for epoch in range(20)] + [row(20), row(21)]
    assert kinds(mended) == ["collapse", "dead class"]
    assert kinds(mended, refined_from=20) == []
    lasting = [row(epoch, refined=TWO_LEFT, hard=LOST_ONE) for epoch in range(20 + STREAK)]
    assert [(alert.kind, alert.epoch) for alert in alerts(lasting, refined_from=20)] == [
        ("collapse", 20 + STREAK - 1),
        ("dead class", 20 + STREAK - 1),
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"refine": "darp", "warm": 24, "epochs": 60}, []),
        ({"refine": "none", "warm": 24, "epochs": 60}, ["collapse"]),
        ({"refine": "darp", "warm": 500, "epochs": 60}, ["collapse"]),  # it will not begin at all
    ],
)
def test_a_run_whose_refinement_is_still_to_come_is_not_given_up(tmp_path: Path, config, expected) -> None:
    told: list[Alert] = []
    watch(tmp_path, [row(epoch, refined=TWO_LEFT, hard=EVEN) for epoch in range(25)], told, **config)
    assert [alert.kind for alert in told] == expected


def test_each_kind_is_told_once_a_run_also_over_a_resume(tmp_path: Path) -> None:
    told: list[Alert] = []
    rows = [row(epoch, refined=TWO_LEFT, hard=EVEN) for epoch in range(60)]
    watch(tmp_path, rows[:30], told)
    assert [alert.kind for alert in told] == ["collapse"]
    watch(tmp_path, rows[30:], told, first_epoch=30)
    assert [alert.kind for alert in told] == ["collapse"]


def test_a_streak_goes_on_over_a_resume(tmp_path: Path) -> None:
    told: list[Alert] = []
    rows = [row(epoch, refined=TWO_LEFT, hard=EVEN) for epoch in range(GRACE + STREAK)]
    watch(tmp_path, rows[:-1], told)
    assert told == []
    watch(tmp_path, rows[-1:], told, first_epoch=len(rows) - 1)
    assert [alert.epoch for alert in told] == [GRACE + STREAK - 1]


def test_a_lost_loss_ends_the_run_at_once_when_asked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        watch(tmp_path, [row(0), row(1, **{"loss/total": math.nan})], [], stop=True)
    assert ended.value.code == HOPELESS_EXIT


def test_a_hopeless_run_ends_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(epoch, refined=TWO_LEFT, hard=EVEN) for epoch in range(20)]
    with pytest.raises(SystemExit) as ended:
        watch(tmp_path, rows, [], stop=True)
    assert ended.value.code == HOPELESS_EXIT
    said = capsys.readouterr().err
    assert f"ends the run after epoch {GRACE + STREAK - 1} (exit code {HOPELESS_EXIT})" in said
    (tmp_path / "metrics.jsonl").unlink()
    watch(tmp_path, [row(epoch, hard=LOST_ONE, mask=0.0) for epoch in range(30)], [], stop=True)
