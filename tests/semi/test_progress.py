from semi import progress
from semi.progress import LINE_EVERY_S, Progress


def test_where_there_is_no_bar_a_line_now_and_then_says_the_time_that_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with Progress(100, 40, "estimating") as bar:
        for _ in range(3):
            now[0] += LINE_EVERY_S / 2
            bar.step()
            bar.now_and_then("estimating: so far")
    # two steps in half a minute, 58 of the 60 are left
    assert capsys.readouterr().err == "estimating: so far, 0:14:30 left\n"
