import io
import json

from cifar_lit.training.progress import ProgressLines


def test_a_stage_writes_no_more_lines_than_its_interval_lets_it() -> None:
    stream = io.StringIO()
    tell = ProgressLines(stream, interval_s=3_600)
    tell("learning", 0.0)
    for step in range(1, 100):
        tell("learning", step / 100)
    tell("learning", 1.0)
    tell("judging", 0.0)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"stage": "learning", "done": 0.2},
        {"stage": "learning", "done": 0.75},
        {"stage": "judging", "done": 0.75},
    ]
