"""What YAML allows and nobody means: one line that names the place, before any work and without the memory."""

from __future__ import annotations

import time

import pytest

from tests.checkout import PROJECT
from xadflow.datasets.reproducing import reproduce
from xadflow.errors import BadSettings
from xadflow.settings.plain_yaml import plain_values

ONE = "x0: &a0 [" + ", ".join("1" * 10) + "]\n"
LAUGHS = ONE + "".join(f"x{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "stands for too many values"),
        (MERGED, "stands for too many values"),
        ("[1]\n" + "---\n" + "x: " + "[" * 3000, "nests lists and mappings too deep"),
        ("x: " + "[" * 3000, "nests lists and mappings too deep"),
        ("x: " + "{a: " * 3000, "nests lists and mappings too deep"),
        ("\n".join(f"{' ' * n}a{n}:" for n in range(60)), "nests lists and mappings too deep"),
        ("gate: {explained: " + "9" * 5000 + "}", "too large a number at gate.explained"),
        ("x: [1, 0x" + "f" * 40 + "]", "too large a number at x.1"),
        ("x: " + "1:" * 200 + "1", "too large a number at x"),
        ("9" * 5000 + ": 1", "too large a number"),
        ("calibration: {false_alarm_rate: .inf}", "no finite number at calibration.false_alarm_rate; got inf"),
        ("x: [-.inf]", "no finite number at x.0"),
        ("x: {y: .nan}", "no finite number at x.y"),
        ("x: 1.0e+999", "no finite number at x"),
        ("x: &a [*a]", "an anchor inside itself"),
        ("x: &a {b: [{c: *a}]}", "an anchor inside itself"),
        ("seed: 0\nseed: 1", "has the key seed twice; got 'line 2'"),
        ("gate: {min_auroc: 0.7, min_auroc: 0.9}", "has the key gate.min_auroc twice"),
        ("x: [{a: 1}, {b: 1, 'b': 2}]", "has the key x.1.b twice"),
        ("x: 2020-13-45", "cannot be read"),
        ("x: !!int abc", "cannot be read"),
        ("x: !!python/object:os.system [a]", "line 1, column 4"),
        ("x: '" + "a" * 1_000_001 + "'", "is too long"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_each_is_refused_at_once_and_says_where(text, told):
    started = time.process_time()
    with pytest.raises(BadSettings) as caught:
        plain_values(text)
    assert time.process_time() - started < 5  # gigabytes take minutes
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_people_write_stays_what_it_was():
    text = "a: &a {k: 1, l: [1.5, yes, null, text]}\nb: *a\nc: [*a, *a]\nd: 9223372036854775807\n<<: {e: -1}\n"
    found = plain_values(text)
    assert found["b"] == {"k": 1, "l": [1.5, True, None, "text"]}
    assert found["c"] == [found["a"], found["a"]]
    assert found["d"] == 2**63 - 1
    assert found["e"] == -1


@pytest.mark.parametrize(
    ("from_", "to", "told"),
    [
        ("limits:", "limits_:", "unknown key limits_"),
        ("limits: {", "# {", "limits is missing in params.yaml"),
        ("calibration: {false_alarm_rate: 0.05}", "", "calibration.false_alarm_rate is missing in params.yaml"),
        ("- elpv\n", "- 'elpv;touch pwned'\n", "catalogue.2 in params.yaml"),
        ("- elpv\n", "- '$(touch pwned)'\n", "catalogue.2 in params.yaml"),
        ("- elpv\n", "- '`touch pwned`'\n", "catalogue.2 in params.yaml"),
    ],
)
def test_nothing_is_handed_to_dvc_that_it_would_run_or_miss(tmp_path, monkeypatch, from_, to, told):
    text = (PROJECT / "params.yaml").read_text()
    assert from_ in text
    (tmp_path / "params.yaml").write_text(text.replace(from_, to, 1))
    (tmp_path / "dvc.yaml").write_text((PROJECT / "dvc.yaml").read_text())
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("DVC was started"))
    with pytest.raises(BadSettings, match=told.replace(".", r"\.")):
        reproduce(tmp_path, "validate@elpv")


def test_no_name_of_a_data_set_stands_in_a_line_that_dvc_gives_to_a_shell():
    lines = [line for line in (PROJECT / "dvc.yaml").read_text().splitlines() if "cmd:" in line]
    assert len(lines) == 4
    assert all("${" not in line for line in lines)
