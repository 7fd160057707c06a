"""The command line's frame: verbs, options, errors in one line, exit statuses."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import types

import pytest

import rdm_jax
from rdm_jax.cli import main as cli
from rdm_jax.cli.progress import Progress, format_rate, format_seconds, note, shown_log
from rdm_jax.core.errors import UserError

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture
def verb(monkeypatch):
    """Makes a verb "do" of a function of the parsed arguments."""

    def make(run, add_arguments=lambda parser: None):
        module = types.ModuleType("rdm_test_verb")
        module.HELP, module.run, module.add_arguments = "Does.", run, add_arguments
        monkeypatch.setitem(sys.modules, "rdm_test_verb", module)
        monkeypatch.setitem(cli.VERBS, "do", cli.Verb("rdm_test_verb", "does"))

    return make


def raises(error):
    def run(args):
        raise error

    return run


def test_help_lists_every_verb_and_imports_none_of_them():
    code = (
        "import sys, rdm_jax.cli.main as cli; status = cli.main(['--help']);"
        "heavy = {'jax', 'numpy', 'flax', 'transformers', 'PIL'} & set(sys.modules);"
        "sys.exit(status or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, verb in cli.VERBS.items():
        assert name in done.stdout
        assert verb.help in done.stdout


def test_the_help_of_no_verb_imports_jax():
    code = (
        "import sys, rdm_jax.cli.main as cli\n"
        "for verb in cli.VERBS:\n"
        "    assert cli.main([verb, '--help']) == 0, verb\n"
        "    assert not {'jax', 'flax', 'transformers'} & set(sys.modules), verb\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_verb_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    assert "rdm VERB --help" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "rdm_jax", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "rdm_jax 0.1.0\n")


def test_a_process_collects_garbage_seldom_and_not_at_its_end(monkeypatch):
    calls = []
    monkeypatch.setattr(gc, "set_threshold", lambda *counts: calls.append(counts[0] > gc.get_threshold()[0]))
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(cli, "main", lambda arguments: calls.append(arguments) or 3)
    assert cli.program(["sample"]) == 3
    assert calls == [True, ["sample"], "freeze"]


def test_importing_the_package_imports_no_jax():
    code = "import sys, rdm_jax; assert 'jax' not in sys.modules; assert rdm_jax.UserError; rdm_jax.Generator"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        print(rdm_jax.nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smaple"], "rdm: error: unknown verb 'smaple'; did you mean 'sample'"),
        (["--versio"], "rdm: error: unknown option --versio; did you mean --version?"),
        (["do", "--stpes", "3"], "rdm: error: unknown option --stpes; did you mean --steps?"),
        (["do", "--steps=x"], "rdm: error: argument --steps: 'x' is not a whole number; see rdm do --help"),
        (["do", "--steps"], "rdm: error: argument --steps: expected one argument; see rdm do --help"),
        (["do", "a", "--step", "3"], "rdm: error: unknown option --step; did you mean --steps"),
    ],
)
def test_wrong_arguments_give_one_line_with_the_nearest_names(verb, capsys, arguments, message):
    def add_arguments(parser):
        parser.add_argument("words", nargs="*")
        parser.add_argument_group("group").add_argument("--steps", type=int)

    verb(lambda args: None, add_arguments)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_options_of_sub_verbs_are_suggested_too(verb, capsys):
    verb(lambda args: None, lambda parser: parser.add_subparsers().add_parser("build").add_argument("--limit"))
    assert cli.main(["do", "build", "--limt", "3"]) == 2
    assert "did you mean --limit?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a red boat", "a tree", "--size", "3"],
        ["--size", "3", "a red boat", "a tree"],
        ["--size=3", "--", "a red boat", "a tree"],
        ["a red boat", "--", "a tree", "--size"],
    ],
)
def test_positionals_stand_before_options_or_after_them(verb, arguments):
    seen = []

    def add_arguments(parser):
        parser.add_argument("words", nargs="*")
        parser.add_argument("--size", type=int)

    verb(lambda args: seen.append(args.words), add_arguments)
    assert cli.main(["do", *arguments]) == 0
    assert seen[0][:2] == ["a red boat", "a tree"]


@pytest.mark.parametrize(
    ("arguments", "odd"),
    [
        (["a red boat", "--size", "3", "2", "5"], "2"),
        (["2", "--size", "2", "2"], "2"),
        (["a", "--size=1", "b", "c"], "b"),
    ],
)
def test_a_value_too_many_of_an_option_is_no_positional(verb, capsys, arguments, odd):
    def add_arguments(parser):
        parser.add_argument("words", nargs="*", metavar="WORD")
        parser.add_argument("--size", type=int)

    verb(lambda args: None, add_arguments)
    assert cli.main(["do", *arguments]) == 2
    assert f"unexpected argument {odd!r} after --size" in capsys.readouterr().err


def test_a_positional_of_one_value_may_stand_between_options(verb):
    seen = []

    def add_arguments(parser):
        parser.add_argument("source")
        parser.add_argument("--size", type=int)

    verb(lambda args: seen.append((args.source, args.size)), add_arguments)
    assert cli.main(["do", "--size", "3", "folder"]) == cli.main(["do", "folder", "--size", "3"]) == 0
    assert seen == [("folder", 3)] * 2


def test_arguments_are_utf8_whatever_the_locale_read(verb, capsys):
    seen = []
    verb(lambda args: seen.append(args.word), lambda parser: parser.add_argument("word"))
    # An ASCII locale leaves the bytes of other letters as surrogates.
    assert cli.main(["do", "Böot 船".encode().decode("ascii", "surrogateescape")]) == 0
    assert seen == ["Böot 船"]
    assert cli.main(["do", b"caf\xe9".decode("ascii", "surrogateescape")]) == 2
    assert "argument 2, 'caf\\xe9', is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("k 0 is too\nsmall"), 2, "rdm: error: k 0 is too small"),
        (KeyboardInterrupt(), 130, "rdm: interrupted"),
        (OSError(28, "No space left on device"), 1, "rdm: error: No space left on device"),
        (OSError(28, "No space left", "a/b.png"), 1, "rdm: error: a/b.png: No space left"),
        (MemoryError(), 1, "rdm: error: out of memory; try a smaller --batch-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 1, "rdm: error: out of memory; try a smaller --batch-size"),
        (ValueError("odd"), 1, "rdm: internal error: ValueError: odd; run again with --debug"),
    ],
)
def test_errors_are_one_line_and_a_status(verb, capsys, error, status, line):
    verb(raises(error))
    assert cli.main(["do"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "do"], ["do", "--debug"]])
def test_debug_shows_the_traceback(verb, capsys, arguments):
    verb(raises(UserError("no")))
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("rdm: error: no\n")


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys, types, rdm_jax.cli.main as cli; verb = types.ModuleType('verb'); verb.HELP = '';"
        "verb.add_arguments = lambda parser: None; verb.run = lambda args: print('hello');"
        "sys.modules['verb'] = verb; cli.VERBS['do'] = cli.Verb('verb', ''); sys.exit(cli.main(['do']))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-u", "-c", code], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_environment_of_the_user_is_kept(monkeypatch, verb):
    verb(lambda args: None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    cli.main(["do"])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/somewhere/rdm_jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    cli.main(["do"])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


def test_the_log_is_shown_for_a_while(capsys):
    with shown_log() as log:
        log.info("hello %s", "there")
        log.getChild("generator").warning("long")
        log.debug("unseen")
    assert capsys.readouterr().err == "rdm: hello there\nrdm: warning: long\n"
    assert log.propagate
    assert not log.handlers


def test_progress_prints_a_line_now_and_then_without_a_terminal(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 6.0, 7.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Progress("sampling", unit="step") as progress:
        progress(0, 10)
        progress(1, 10)
        progress(6, 10)
        progress(7, 10)
    assert capsys.readouterr().err == "rdm: sampling: 6/10 steps, 1.00 per second, 4.0 s left\n"


def test_the_pauses_between_lines_grow(capsys, monkeypatch):
    clock = iter(map(float, itertools.count()))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Progress("sampling") as progress:
        for done in range(400):
            progress(done, 1000)
    places = [int(line.split("/")[0].rsplit(" ", 1)[1]) for line in capsys.readouterr().err.splitlines()]
    assert [after - before for before, after in itertools.pairwise(places)] == [10, 20, 40, *[60] * (len(places) - 4)]
    assert len(places) > 5


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.5, "1,234 per second"),
        (1e6, "1,000,000 per second"),
        (99.96, "100.0 per second"),
        (2.5, "2.50 per second"),
        (0.025, "40.0 s each"),
        (1e-4, "2 h 46 min each"),
        (0.0, "0.00 per second"),
    ],
)
def test_rates_are_plain_numbers(rate, text):
    assert format_rate(rate) == text


def test_progress_prints_the_end_once_however_soon_after_the_last_line(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 6.0, 6.5, 6.6])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("embedding", unit="row")
    for done in (0, 48640, 50000, 50000):
        progress(done, 50000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" rows")[0] for line in lines] == ["rdm: embedding: 48640/50000", "rdm: embedding: 50000/50000"]
    assert lines[-1].endswith(" in 6.5 s")


def test_a_bar_that_nobody_closes_shows_its_end(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("embedding")
    for done in range(11):
        progress(done, 10)
    assert "10/10" in capsys.readouterr().err


def test_a_finished_bar_does_not_appear_below_later_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("encoding")
    for done in (5, 10, 10):
        progress(done, 10)
    note("step 1")
    before, after = capsys.readouterr().err.split("rdm: step 1\n")
    assert "10/10" in before and "encoding" not in after


def test_progress_shows_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("sampling") as progress:
        progress(5, 10)
        note("above")
        progress(10, 10)
    printed = capsys.readouterr().err
    assert "10/10" in printed
    assert "rdm: above\n" in printed


def test_quiet_progress_is_silent(capsys):
    with Progress("sampling", quiet=True, seconds=0.0) as progress:
        progress(5, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (185.2, "3 min 05 s"), (7800.0, "2 h 10 min")])
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
