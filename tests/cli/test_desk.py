"""The review desk in a terminal, from a filed review to its label."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import start

from bayeslora_tool.cli import terminal
from bayeslora_tool.desk import Desk, Ledger, Route
from tests.conftest import ROOT, failed
from tests.desk.filed import question
from tests.graphs.desk import on

APP = """
import sqlite3
from langgraph.checkpoint.sqlite import SqliteSaver
from bayeslora_tool.desk import Desk, Ledger
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import build

acted = []

def act(outcome):
    acted.append(outcome)
    if "broken" in outcome["text"]:
        raise RuntimeError("no paper\\x1b[2J")

saver = SqliteSaver(sqlite3.connect("threads.sqlite", check_same_thread=False))
plain = build(FakeClassifier(by_words), saver=saver, act=act)
ledger = Ledger("desk.sqlite")
desk = Desk(ledger)
graph = desk.watch(plain, name="tickets")
"""
EDIT = '{"type": "edit", "edited_action": {"name": "act_on_label", "args": {"label": "no"}}}'


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("ticket_app.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    import ticket_app  # type: ignore[import-not-found]

    yield ticket_app
    ticket_app.ledger.close()
    ticket_app.saver.conn.close()
    sys.modules.pop("ticket_app", None)


def ask(app: Any, *texts: str) -> list[str]:
    for i, text in enumerate(texts):
        start(app.graph, {"text": text}, on(i))
    return [review.id for review in app.ledger.reviews("open")]


def test_from_a_question_to_a_label(run: Any, app: Any) -> None:
    one, two, three, four = ask(app, "odd one", "odd two", "odd three", "odd four")
    listed = run("desk", "list").stdout
    for name, text in ((one, "odd one"), (two, "odd two"), (three, "odd three")):
        assert re.search(f"{name[:8]} .*open .*act_on_label .*yes \\(0.90\\) .*{text}", listed)
    shown = run("desk", "show", one[:8]).stdout
    for expected in (f"review: {one}", "tickets, 0", "approve, edit, reject, respond", "| odd one",
                     "The adapter's draws disagree", "filed by the desk"):  # fmt: skip
        assert expected in shown
    assert f"{four} is yours" in run("desk", "claim", four[:8], "--by", "dee").stdout
    assert failed(run("desk", "answer", four, "approve", "--by", "ann"), "claimed by dee")
    by = ["--by", "ann"]
    assert run("desk", "answer", one[:8], "approve", *by).exit_code == 0
    assert run("desk", "answer", two, "edit", "--label", "no", *by).exit_code == 0
    assert run("desk", "answer", three, "reject", "-m", "not so", *by).exit_code == 0
    assert failed(run("desk", "answer", one, "reject", "--by", "bob"), "was decided by ann")
    applied = run("desk", "apply", "ticket_app:desk")
    assert applied.exit_code == 0
    assert "3 applied" in applied.stdout
    assert [(o["text"], o["label"]) for o in app.acted] == [("odd one", "yes"), ("odd two", "no")]
    exported = [json.loads(line) for line in run("desk", "export").stdout.splitlines()]
    assert [
        (e["text"], e["model_label"], e["reviewer_label"], e["decision"], e["message"], e["who"])
        for e in exported
    ] == [
        ("odd one", "yes", "yes", "approve", None, "ann"),
        ("odd two", "yes", "no", "edit", None, "ann"),
        ("odd three", "yes", None, "reject", "not so", "ann"),
    ]
    assert [e["key"] for e in exported[:2]] == [o["key"] for o in app.acted]
    listed = run("desk", "list", "--all").stdout
    assert listed.count("applied (ann)") == 3
    assert "claimed (dee)" in listed
    assert run("desk", "export", "-o", "labels.jsonl").exit_code == 0
    assert len(Path("labels.jsonl").read_text().splitlines()) == 3


def test_a_whole_answer_may_be_given_as_json(run: Any, app: Any) -> None:
    (name,) = ask(app, "odd")
    assert failed(run("desk", "answer", name, "{", "--json", "--by", "ann"), "is no JSON")
    assert run("desk", "answer", name, EDIT, "--json", "--by", "ann").exit_code == 0
    assert app.ledger.review(name).answer == json.loads(EDIT) | {"reviewer": "ann"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["edit"], "edit needs --label"),
        (["edit", "--label", "maybe"], "unknown label 'maybe'"),
        (["approve", "--label", "no"], "go with edit"),
        (["respond"], "non-empty text"),
        (["agree"], "`type` is 'agree'"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    run: Any, app: Any, arguments: list[str], why: str
) -> None:
    (name,) = ask(app, "odd")
    assert failed(run("desk", "answer", name, *arguments, "--by", "ann"), why)
    assert app.ledger.review(name).state == "open"


def test_sync_files_what_was_missed(run: Any, app: Any) -> None:
    start(app.plain, {"text": "odd"}, on(1))
    assert "0 filed" not in run("desk", "sync", "ticket_app:desk").stdout
    assert len(app.ledger.reviews("open")) == 1
    assert failed(run("desk", "sync", "ticket_app:graph"), "must be a Desk")
    assert failed(run("desk", "sync", "ticket_app:nothing"), "no attribute 'nothing'")


def test_a_decision_that_fails_says_why_and_is_no_success(run: Any, app: Any) -> None:
    (name,) = ask(app, "broken odd")
    run("desk", "answer", name, "approve", "--by", "ann")
    done = run("desk", "apply", "ticket_app:desk")
    assert done.exit_code == 1
    assert "RuntimeError: no paper\\x1b[2J" in done.stdout
    listed = run("desk", "list", "-s", "decided")
    assert "could not be carried out: RuntimeError: no paper\\x1b[2J" in listed.stderr
    assert "could not be carried out" in run("desk", "show", name).stdout


def test_verify_finds_what_was_changed_behind_its_back(run: Any, app: Any) -> None:
    (name,) = ask(app, "odd")
    run("desk", "answer", name, "approve", "--by", "ann")
    fine = run("desk", "verify")
    assert fine.exit_code == 0
    assert "2 events" in fine.stdout
    head = fine.stdout.split()[-1]
    assert run("desk", "verify", "--head", head).exit_code == 0
    assert run("desk", "verify", "--head", "0" * 64).exit_code == 1
    db = sqlite3.connect("desk.sqlite")
    with db:
        db.execute("UPDATE reviews SET decided_by = 'bob'")
    db.close()
    found = run("desk", "verify")
    assert found.exit_code == 1
    assert f"review {name}: decided_by" in found.stdout


def test_labels_are_exported_in_each_format_and_only_labelled_texts_if_asked(
    run: Any, app: Any
) -> None:
    one, two = ask(app, "odd one", "odd two")
    run("desk", "answer", one, "approve", "--by", "ann")
    run("desk", "answer", two, "reject", "--by", "ann")
    assert len(run("desk", "export", "--labelled").stdout.splitlines()) == 1
    for kind, n in (("csv", 2), ("parquet", 2), ("jsonl", 2)):
        assert f"{n} written" in run("desk", "export", "-o", f"labels.{kind}").stderr
    assert len(Path("labels.csv").read_text().splitlines()) == 3
    assert Path("labels.parquet").read_bytes()[:4] == b"PAR1"
    assert failed(run("desk", "export", "-o", "labels.xls"), "unknown file type")


def test_what_is_erased_is_shown_so(run: Any, app: Any) -> None:
    (name,) = ask(app, "odd zanzibar")
    run("desk", "answer", name, "approve", "--by", "ann")
    run("desk", "apply", "ticket_app:desk")
    assert "0 erased" in run("desk", "erase", "--retain", "1").stdout
    assert "1 erased" in run("desk", "erase", "--retain", "0").stdout
    shown = run("desk", "show", name).stdout
    assert "erased: " in shown
    assert "decided: approve" in shown
    assert "zanzibar" not in shown + run("desk", "list", "--all").stdout
    assert run("desk", "verify").exit_code == 0
    assert json.loads(run("desk", "export").stdout)["text"] is None


def test_a_key_of_ones_own_closes_what_is_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayeslora_tool.desk import Ledger
    from tests.desk.filed import hidden

    monkeypatch.chdir(tmp_path)
    key = run("desk", "new-key").stdout.strip()
    assert key != run("desk", "new-key").stdout.strip()
    monkeypatch.setenv("BAYESLORA_DESK_KEY", key)
    with Ledger("desk.sqlite") as ledger:
        name = hidden(ledger, "odd zanzibar").id
    assert "odd zanzibar" in run("desk", "show", name).stdout
    monkeypatch.delenv("BAYESLORA_DESK_KEY")
    assert failed(run("desk", "show", name), "set BAYESLORA_DESK_KEY to its key")
    assert run("desk", "verify").exit_code == 0


def test_webhooks_are_added_listed_tried_again_and_removed(run: Any, app: Any) -> None:
    added = run("desk", "add-webhook", "http://127.0.0.1:9/a/secret/path", "--on", "filed")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{40,}\n", added.stdout)
    (name,) = re.findall(r"webhook (\w+);", added.stderr)
    ask(app, "odd")
    listed = run("desk", "webhooks")
    assert listed.exit_code == 0
    assert f"{name}  filed  http://127.0.0.1:9/..." in listed.stdout
    assert "1 to be sent, 0 sent" in listed.stdout
    sent = run("desk", "send")
    assert sent.exit_code == 1
    assert "0 sent" in sent.stdout
    db = sqlite3.connect("desk.sqlite")
    with db:
        db.execute("UPDATE outbox SET next = NULL, problem = 'it answered \x1b[2J'")
    db.close()
    listed = run("desk", "webhooks")
    assert listed.exit_code == 1
    assert "dead: filed of" in listed.stdout
    assert "it answered \\x1b[2J" in listed.stdout
    assert "1 will be sent again" in run("desk", "retry").stdout
    assert run("desk", "remove-webhook", name).exit_code == 0
    assert "no webhook" in run("desk", "webhooks").stderr
    assert failed(run("desk", "remove-webhook", name), "there is no webhook")
    assert failed(run("desk", "add-webhook", "http://example.com"), "`url` must be an address")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--retain", "30"], "--retain goes with --watch"),
        (["--takeover", "--watch"], "first without --watch"),
    ],
)
def test_an_option_of_apply_that_would_do_nothing_is_refused(
    run: Any, app: Any, options: list[str], why: str
) -> None:
    assert failed(run("desk", "apply", "ticket_app:desk", *options), why)


def test_strange_texts_leave_nothing_to_steer_a_terminal_with(run: Any, app: Any) -> None:
    (name,) = ask(app, "odd \x1b[2J\u202e [red]<script>")
    for command in (["list"], ["show", name], ["list", "--all"]):
        shown = run("desk", *command).stdout
        assert "\\x1b[2J\\u202e [red]<script>" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown


def test_names_like_markup_are_shown_as_they_are(run: Any, app: Any) -> None:
    app.ledger.reconcile([question("odd two")], routes=[Route(needed=2)])
    (review,) = app.ledger.reviews("open")
    for who in ("[/red]", "[bold]bob"):
        assert run("desk", "answer", review.id, "approve", "--by", who).exit_code == 0
    shown = run("desk", "show", review.id)
    assert shown.exit_code == 0
    assert "answer of [/red]:" in shown.stdout
    assert "answer of [bold]bob:" in shown.stdout
    app.ledger.people.add("[/dim]")
    db = sqlite3.connect("desk.sqlite")
    with db:
        db.execute("UPDATE reviewers SET role = 'lead'")
    db.close()
    found = run("desk", "verify")
    assert found.exit_code == 1
    assert "reviewer [/dim]: role" in found.stdout


def test_a_ledger_that_is_not_there_is_not_made_by_looking(run: Any, app: Any) -> None:
    for command in (["list"], ["verify"], ["export"], ["show", "x"]):
        assert failed(run("desk", *command, "-l", "other.sqlite"), "there is no ledger")
    assert not Path("other.sqlite").exists()
    assert failed(run("desk", "list", "-s", "new"), "unknown state 'new'")
    assert failed(run("desk", "show", "zz"), "no review begins with 'zz'")


def test_reviews_are_listed_by_group_order_and_text(run: Any, app: Any) -> None:
    app.desk.watch(app.plain, name="routed", routes=[Route(group="cards", needed=2)])
    ask(app, "odd one", "odd two")
    app.desk.sync()  # the same threads, for the cards people
    listed = run("desk", "list", "-g", "loans").stdout
    assert "cards" not in listed
    assert listed.count("odd one") == 1
    both = run("desk", "list", "-g", "cards", "--search", "ODD ONE").stdout
    assert both.count("odd one") == 2
    assert "odd two" not in both
    newest = run("desk", "list", "--order", "recent", "-n", "1", "-g", "loans")
    assert "odd two" in newest.stdout
    assert "more than 1" in newest.stderr
    assert failed(run("desk", "list", "--order", "size"), "`order` (='size')")
    (name,) = (r.id for r in app.ledger.reviews(graph="routed") if r.text == "odd one")
    said = run("desk", "answer", name, "reject", "-m", "hidden", "--by", "ann").stdout
    assert "somebody else has to" in said
    for shown in (run("desk", "list").stdout, run("desk", "show", name).stdout):
        assert "answered by 1" in shown
        assert "hidden" not in shown
    assert failed(run("desk", "answer", name, "approve", "--by", "ann"), "answer of ann already")
    assert "is decided" in run("desk", "answer", name, "reject", "--by", "bob").stdout
    shown = run("desk", "show", name).stdout
    assert "answer of ann" in shown
    assert "for: cards" in shown


def test_reviewers_are_let_in_by_a_token_that_is_shown_once(run: Any, tmp_path: Path) -> None:
    place = ["-l", str(tmp_path / "new.sqlite")]
    added = run("desk", "add-reviewer", "ann", "--groups", "cards, loans", *place)
    assert added.exit_code == 0
    token = added.stdout.strip()
    assert re.fullmatch(r"[\w-]{44}", token)
    assert run("desk", "add-reviewer", "lea\\x [b]", "--role", "lead", *place).exit_code == 0
    with Ledger(place[1]) as ledger:
        session = ledger.people.session(ledger.people.sign_in("ann", token))
        assert session is not None
        assert session.person.groups == {"cards", "loans"}
    listed = run("desk", "reviewers", *place).stdout
    assert re.search(r"ann +reviewer +cards, loans", listed)
    assert re.search(r"lea\\x \[b\] +lead +-", listed)
    assert token not in listed
    assert failed(run("desk", "add-reviewer", "ann", *place), "`name` (='ann') is taken")
    assert failed(run("desk", "add-reviewer", "bob", "--role", "boss", *place), "must be one of")
    assert "ann is out" in run("desk", "remove-reviewer", "ann", *place).stdout
    assert failed(run("desk", "remove-reviewer", "ann", *place), "is no reviewer")
    assert "ann" not in run("desk", "reviewers", *place).stdout
    verified = run("desk", "verify", *place).stdout
    assert "3 events, all as they were written" in verified


def test_help_teaches_the_way_of_a_review(run: Any) -> None:
    shown = run("desk", "--help").stdout
    for command in ("list", "show", "claim", "answer", "apply", "sync", "verify", "export", "erase",
                    "new-key", "add-webhook", "webhooks", "send", "retry", "statistics", "demo",
                    "add-reviewer", "reviewers", "remove-reviewer"):  # fmt: skip
        assert command in shown
        about = run("desk", command, "--help").stdout
        assert "REVIEW" in about or "MODULE:NAME" in about or "--ledger" in about or "KEY" in about


@pytest.mark.slow
def test_the_code_of_the_page_runs(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a newcomer would type it, with the commands between."""
    page = (ROOT / "docs/review-desk.md").read_text(encoding="utf-8")
    app, ask, *others = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_app.py").write_text(app)
    try:
        exec(compile(ask, "review-desk.md", "exec"), {})
        listed = run("desk", "list").stdout
        (name,) = re.findall(r"^ *([0-9a-f]{8}) ", listed, flags=re.MULTILINE)
        lines = re.findall(r"^bayeslora (desk .*?)(?: +#.*)?$", page, flags=re.MULTILINE)
        assert len(lines) >= 6
        for line in lines:
            words = line.replace("3f2a", name).split()
            if words[1] in ("demo", "serve"):  # until they are stopped; tested by themselves
                continue
            done = run(*words)
            assert done.exit_code == 0, (line, done.output)
            if words[1] == "apply":
                assert "1 applied" in done.stdout
        (label,) = map(json.loads, Path("labels.jsonl").read_text().splitlines())
        assert label["who"] == "ann"
        (routes,) = (block for block in others if "Route(" in block)
        known = vars(sys.modules["my_app"])
        exec(compile(routes, "review-desk.md", "exec"), known | {"desk": Desk(known["ledger"])})
    finally:
        module = sys.modules.pop("my_app", None)
        if module is not None:
            module.ledger.close()
            module.saver.conn.close()


def test_statistics_name_what_was_decided_by_whom(run: Any, app: Any) -> None:
    first, second = ask(app, "odd first", "odd second")
    run("desk", "answer", first, "approve", "--by", "ann")
    run("desk", "answer", second, EDIT, "--json", "--by", "bob")
    shown = run("desk", "statistics", "--days", "1").stdout
    assert re.search(r"all\s+1\s+1\s+0\s+0\s+0\s+0", shown)
    assert re.search(r"ann\s+1\s+\d+ s\s+\d+ s\s+100 % of 1", shown)
    assert re.search(r"bob\s+1\s+\d+ s\s+\d+ s\s+0 % of 1", shown)
    plain = json.loads(run("desk", "statistics", "--json").stdout)
    assert plain["agreed"] == {"n": 2, "same": 1, "kappa": None}
    assert len(plain["days"]) == 30
    assert failed(run("desk", "statistics", "--target-risk", "2"), "`target_risk` (=2.0)")


@pytest.mark.parametrize("width", [50, 80, 200])
def test_what_one_types_again_is_whole_in_a_narrow_terminal(
    run: Any, app: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = ask(app, *(f"odd, {'and long ' * 20}{i}" for i in range(3)))
    monkeypatch.setattr(terminal.out, "width", width)
    shown = run("desk", "list").stdout.splitlines()
    assert {line.split()[0] for line in shown[1:]} == {name[:8] for name in names}
    assert app.ledger.head()[1] in run("desk", "verify").stdout.split()


def test_an_unknown_backbone_for_similar_reviews_is_told_before_anything_is_served(
    run: Any, app: Any
) -> None:
    assert failed(run("desk", "serve", "--similar", "nope"), "nope")
