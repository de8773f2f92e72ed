"""``verinn audit run``: tools that are right, lie, crash, hang, and look where they shouldn't."""

import csv
import json
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_tools import fake

from verinn.cli import main


def audited(suite: Path, mood: str, *options: str, result: bool = True) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the rows by id."""
    out = suite.parent / "out"
    code = main(
        ["audit", "run", str(suite), "--command", fake(mood, result), "--name", mood, "--out", str(out), *options]
    )
    with open(out / "claims.csv", newline="") as stream:
        return code, {row["id"]: row for row in csv.DictReader(stream)}


def classes(suite: Path) -> dict[str, str]:
    report = json.loads((suite.parent / "out" / "report.json").read_text())
    return {finding["claim"]["id"]: finding["class"] for finding in report["findings"]}


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits to be reaped has."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_an_honest_tool(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = audited(suite, "honest", "--jobs", "2", result=False)
    assert code == 0
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "hidden": "sat", "smaller": "sat", "safe": "unsat", "clean": "unsat",
    }  # fmt: skip
    assert classes(suite) == {"hidden": "solved", "smaller": "solved", "safe": "solved", "clean": "not known"}
    printed = capsys.readouterr().out
    assert "honest on 4 instances: 3 solved, 1 not known; nothing unsound was seen" in printed


def test_a_liar_is_caught_with_a_command_that_replays_it(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = audited(suite, "unsat", "--timeout", "15")
    printed = capsys.readouterr().out
    assert code == 1
    assert classes(suite) == {"hidden": "unsound", "smaller": "unsound", "safe": "solved", "clean": "not known"}
    assert printed.startswith("UNSOUND: hidden (linear): unsat")
    assert f"verinn audit replay {suite} hidden --command " in printed
    assert "something unsound was seen" in printed


def test_replaying_a_lie(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "replay", str(suite), "hidden", "--command", fake("unsat")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("Y exactly 2", "Y, replayed now 2", "yes: a counterexample", "unsat", "unsound"):
        assert part in printed
    assert main(["audit", "replay", str(suite), "hidden", "--command", fake("honest")]) == 0
    assert main(["audit", "replay", str(suite), "safe"]) == 0


def test_replaying_a_kept_answer(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audited(suite, "outside")
    answer = suite.parent / "out" / "answers" / "hidden.txt"
    assert main(["audit", "replay", str(suite), "hidden", "--answer", str(answer)]) == 1
    assert "outside the box by 1e-07" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mood", "kind", "found"),
    [
        ("sat", "valid", {"hidden": "solved", "smaller": "solved", "safe": "false sat", "clean": "false witness"}),
        ("outside", "outside", dict.fromkeys(("hidden", "smaller", "clean"), "false witness") | {"safe": "false sat"}),
        ("useless", "not violating", dict.fromkeys(("hidden", "smaller"), "false witness")),
        ("few", "malformed", dict.fromkeys(("hidden", "smaller"), "false witness")),
        ("nan", "malformed", dict.fromkeys(("hidden", "smaller"), "false witness")),
        ("silent", "missing", {"hidden": "no witness", "smaller": "no witness", "safe": "false sat"}),
    ],
)
def test_counterexamples_are_classified(mood: str, kind: str, found: dict[str, str], suite: Path) -> None:
    code, rows = audited(suite, mood, "--jobs", "2")
    assert code == 1
    assert rows["hidden"]["witness"] == kind
    seen = classes(suite)
    assert {name: seen[name] for name in found} == found


def test_no_tool_sees_more_than_its_instance(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(suite)
    monkeypatch.setenv("PWD", str(suite))
    code, rows = audited(suite, "look_around", "--quick")
    assert code == 0
    assert {name: row["verdict"] for name, row in rows.items()} == {"hidden": "sat", "safe": "unsat"}


def test_crashes_name_no_folder(suite: Path) -> None:
    code, rows = audited(suite, "crash", "--filter", "shrunk")
    assert code == 0
    assert [(row["id"], row["verdict"], row["reason"]) for row in rows.values()] == [
        ("smaller", "error", "ValueError: in …/odd.py")
    ]


def test_what_hangs_is_killed_in_whatever_group_it_hides(suite: Path) -> None:
    began = time.monotonic()
    code, rows = audited(suite, "hang", "--timeout", "1", "--filter", "shrunk")
    assert code == 0
    assert rows["smaller"]["verdict"] == "timeout"
    assert time.monotonic() - began < 30
    assert gone(int((suite.parent / "pid").read_text()))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_the_memory_limit(suite: Path) -> None:
    _, rows = audited(suite, "hungry", "--memory", "150", "--filter", "shrunk")
    assert (rows["smaller"]["verdict"], rows["smaller"]["reason"]) == (
        "error",
        "killed: it held more memory than allowed",
    )
    assert float(rows["smaller"]["seconds"]) < 20


def test_resumes_where_it_stopped(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audited(suite, "honest", "--quick")
    rows = suite.parent / "out" / "claims.csv"
    rows.write_text(rows.read_text() + "smaller,honest,,20.0,s")  # cut off in the middle of a row
    capsys.readouterr()
    _, found = audited(suite, "honest")
    assert list(found) == ["hidden", "safe", "smaller", "clean"]
    assert "2 of 4 are in" in capsys.readouterr().err
    before = rows.read_text()
    audited(suite, "honest")
    assert rows.read_text() == before
    assert audited(suite, "honest", "--timeout", "19", "--filter", "shrunk")[0] == 0  # another limit is another run
    assert rows.read_text() != before


def test_contradictions_need_no_truth(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (suite / "truth" / "truth.json").unlink()
    out = suite.parent / "out"
    audited(suite, "honest")
    text = (out / "claims.csv").read_text()
    (out / "claims.csv").write_text(text.replace("hidden,honest,,20.0,sat", "hidden,honest,,20.0,unsat"))
    code, _ = audited(suite, "honest")
    assert code == 1
    assert "CONTRADICTION: shrinking (implies): hidden unsat, smaller sat" in capsys.readouterr().out


def test_the_standards_command_line_and_the_competitions(suite: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    python, script = fake("honest").split()[:2]
    (folder / "prepare_instance.sh").write_text('[ "$1" = v1 ] && [ -f "$3" ] && [ -f "$4" ]\n')
    (folder / "run_instance.sh").write_text(f'[ "$6" = 20 ] && {python} {script} honest "$3" "$4" "$5"\n')
    assert main(["audit", "run", str(suite), "--scripts", str(folder), "--quick", "--out", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a" / "report.json").read_text())["counts"] == {"solved": 2}
    (tmp_path / "solver").write_text(
        '#!/bin/sh\n[ "$1 $3 $5 $6" = "verify --network --timeout 20" ] || exit 3\n'
        f'exec {python} {script} honest "${{4#N=}}" "$2"\n'
    )
    (tmp_path / "solver").chmod(0o755)
    arguments = ["--standard", str(tmp_path / "solver"), "--quick", "--out", str(tmp_path / "b")]
    assert main(["audit", "run", str(suite), *arguments]) == 0
    assert json.loads((tmp_path / "b" / "report.json").read_text())["counts"] == {"solved": 2}


def test_verinn_itself(suite: Path) -> None:
    out = suite.parent / "out"
    assert main(["audit", "run", str(suite), "--quick", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["tool"], report["counts"]) == ("verinn", {"solved": 2})


class Page(HTMLParser):
    """What a page would load, whether its tags close, and its text."""

    VOID = ("meta", "br", "img", "hr", "link", "input")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.loaded.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
        if tag in ("script", "link", "iframe"):
            self.loaded.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("mood", ["unsat", "sat", "honest", "crash"])
def test_the_page(mood: str, suite: Path) -> None:
    audited(suite, mood)
    text = (suite.parent / "out" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.loaded == []
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids))
    assert text.count("<svg") >= 2
    assert ("Something unsound was seen" in page.text) == (mood in ("unsat", "sat"))
    assert ("Nothing unsound was seen" in page.text) == (mood in ("honest", "crash"))
    if mood == "unsat":
        assert page.text.index("verinn audit replay") < page.text.index("How the instances came out")
        assert text.index("Unsound claims") < text.index("How the instances came out")


def test_what_a_tool_writes_is_no_markup(suite: Path) -> None:
    out = suite.parent / "out"
    command = fake("crash").replace("crash", "<b>crash</b>")
    main(["audit", "run", str(suite), "--command", command, "--name", "<i>x", "--quick", "--out", str(out)])
    text = (out / "report.html").read_text()
    assert "<b>crash" not in text
    assert "<i>x" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        (["{suite}", "--filter", "nothing-like-it"], "no instance matches"),
        (["{suite}", "--tool", "nonsense"], "nonsense"),
        (["{suite}", "--command", "true {onnx}"], "is not a command with"),
        (["{suite}", "--command", "/no/such/program {onnx} {vnnlib}"], "there is no program"),
        (["{suite}", "--command", "true {onnx} {vnnlib}", "--tool", "verinn"], "name two tools"),
        (["{suite}", "--command", "true {onnx} {vnnlib}", "--python", "python"], "known by name"),
        (["{suite}", "--scripts", "{suite}"], "holds no run_instance.sh"),
        (["{suite}", "--tool", "neuralsat", "--python", "/no/python"], "there is no interpreter"),
        (["{suite}", "--verdict", "("], "no regular expression"),
        (["{suite}", "--memory", "0"], "not a number above zero"),
        (["{suite}", "--out", "{suite}/manifest.json"], "manifest.json"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "run", *(argument.format_map(_Places(suite=suite)) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


class _Places(dict[str, object]):
    """Leaves the places of templates alone."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def test_bad_replays_are_one_line(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nothing"], ["hidden", "--answer", "/no/such/file"]):
        assert main(["audit", "replay", str(suite), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 2
