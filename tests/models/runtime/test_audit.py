"""The audit log: a chain that shows edits, survives torn writes and replays."""

import json
import os

import pytest

from bitfront.models.runtime.audit import (
    AuditError,
    AuditLog,
    check_writable,
    read_audit,
    replay,
)

START = {"event": "start", "input": 0, "to": "high"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def written(path, *events):
    log = AuditLog(path)
    for number, event in enumerate(events):
        log.append(event, 1000.0 + number)
    log.close()
    return path.read_text().splitlines()


def test_every_line_is_one_event_with_its_number_and_time(path):
    lines = written(path, START, {"event": "stop", "input": 7, "share": 0.1})
    first, second = map(json.loads, lines)
    assert (first["sequence"], second["sequence"]) == (0, 1)
    assert second["time"] == "1970-01-01T00:16:41.000+00:00"
    assert second["previous"] == first["digest"]
    events = read_audit(path).events
    assert events[1]["share"] == 0.1 and events[1]["input"] == 7


def test_it_is_continued_where_it_ended(path):
    written(path, START)
    written(path, START, {"event": "stop", "input": 3})
    events = read_audit(path).events
    assert [event["sequence"] for event in events] == [0, 1, 2]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_an_edit_anywhere_is_named(path, line):
    lines = written(path, START, {"event": "x", "input": 1}, {"event": "x", "input": 2})
    lines[line] = lines[line].replace('"input":', '"input":9')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AuditError, match=rf"line {line + 1} of the audit log .* was changed"):
        read_audit(path)
    with pytest.raises(AuditError, match=f"line {line + 1}"):
        AuditLog(path)


def test_a_line_that_was_taken_out_is_named(path):
    lines = written(path, START, {"event": "x", "input": 1}, {"event": "x", "input": 2})
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(AuditError, match=r"line 2 .* does not follow from the line before"):
        read_audit(path)


def test_a_torn_last_line_is_told_and_cut_off_when_it_goes_on(path):
    lines = written(path, START, {"event": "x", "input": 1})
    path.write_text(lines[0] + "\n" + lines[1][:20])
    trail = read_audit(path)
    assert len(trail.events) == 1
    assert trail.torn is not None and "line 2" in trail.torn and "torn after 20 bytes" in trail.torn
    written(path, {"event": "x", "input": 2})
    trail = read_audit(path)
    assert trail.torn is None
    assert trail.events[1]["torn_bytes"] == 20


@pytest.mark.parametrize(
    "content", [b"a line of notes", b'{"sequence": 1}', b"two\nlines\n", b"\n", b"\0\xff", b"1\n2"]
)
def test_what_is_no_audit_log_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)
    for use in (AuditLog, read_audit, check_writable):
        with pytest.raises(AuditError, match=r"audit.jsonl is no audit log; name another file"):
            use(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("behind", [b"notes", b'{"sequence":0,"time":"', b'{"sequence":10'])
def test_what_stands_behind_the_events_and_is_none_is_left_as_it_is(path, behind):
    written(path, START)
    content = path.read_bytes() + behind
    path.write_bytes(content)
    for use in (AuditLog, read_audit, check_writable):
        with pytest.raises(AuditError, match=r"behind line 1 .* of no audit log; name another"):
            use(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("length", [1, 14, 30])
def test_a_first_event_that_was_torn_is_cut_off(path, length):
    (line,) = written(path, START)
    path.write_text(line[:length])
    check_writable(path)
    assert path.read_text() == line[:length]
    written(path, START)
    assert read_audit(path).events[0]["torn_bytes"] == length


def test_whether_a_log_could_be_written_is_found_out_without_a_trace(tmp_path, path):
    check_writable(path)
    assert not path.exists()
    log = AuditLog(path)
    with pytest.raises(AuditError, match="written by another process or controller"):
        check_writable(path)
    log.close()
    check_writable(path)
    with pytest.raises(AuditError, match=r"cannot write the audit log .*: cannot find .*nowhere"):
        check_writable(tmp_path / "nowhere" / "audit.jsonl")
    with pytest.raises(AuditError, match="Is a directory"):
        check_writable(tmp_path)
    with pytest.raises(AuditError, match="no regular file"):
        check_writable("/dev/null")


def test_a_failed_write_leaves_nothing_behind(path, monkeypatch):
    log = AuditLog(path)
    log.append(START, 0.0)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[:10]))
    with pytest.raises(OSError, match="part of an event"):
        log.append({"event": "x", "input": 1}, 0.0)
    monkeypatch.undo()
    log.append({"event": "x", "input": 2}, 0.0)
    log.close()
    assert [event["input"] for event in read_audit(path).events] == [0, 2]


def test_a_closed_log_is_an_error_of_the_system(path):
    log = AuditLog(path)
    log.close()
    log.close()
    with pytest.raises(OSError):
        log.append(START, 0.0)


def test_two_at_a_time_are_refused(path):
    log = AuditLog(path)
    with pytest.raises(AuditError, match="written by another process or controller"):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path):
    with pytest.raises(AuditError, match="cannot write the audit log"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl")
    with pytest.raises(AuditError, match="cannot read the audit log"):
        read_audit(tmp_path / "none")
    with pytest.raises(AuditError, match="no regular file"):
        AuditLog("/dev/null")


def test_replay_gives_the_level_at_every_input():
    switch = {"event": "switch", "input": 2, "to": "low"}
    gap = {"event": "gap", "input": 4, "to": "high"}
    stop = {"event": "stop", "input": 6}
    events = [START, switch, gap, stop]
    assert replay(events) == ["high"] * 2 + ["low"] * 2 + ["high"] * 2
    assert replay(events[:2], inputs=3) == ["high", "high", "low"]
    failure = {"event": "failure", "input": 4}
    assert replay([START, switch, failure]) == ["high"] * 2 + ["low"] * 3
    assert replay([*events, START], run=0) == replay(events)
    assert replay([*events, START]) == []
    with pytest.raises(AuditError, match="there is no number 1"):
        replay(events, run=1)
