"""The command line as a program: exit statuses, help, what it loads, pipes and interruptions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import convmat
from convmat import plot
from convmat.cli import COMMANDS, main, show
from tests import cli

ROOT = Path(__file__).parents[1]
NAMES = ("show", "animate", "spectrum", "layers", "bench", "demo")
LAYER = ("--input", "5x5", "--kernel", "3", "--stride", "2", "--padding", "1")


def program(*words, **options):
    """The arguments of `Popen` that run Python in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return {"args": [sys.executable, "-W", "error", *words], "env": environment, "cwd": ROOT} | streams | options


def finished(*words, **options):
    with subprocess.Popen(**program(*words, **options)) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_every_command_is_listed_in_the_help():
    assert [module.__name__.rpartition(".")[2] for module in COMMANDS] == list(NAMES)
    status, output, errors = finished("-m", "convmat", "--help")
    assert (status, errors) == (0, "")
    for name in NAMES:
        assert f"\n    {name} " in output


@pytest.mark.parametrize("command", NAMES)
def test_help_of_every_command_says_what_it_does_in_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith(f"usage: convmat {command} ")
    assert max(map(len, printed.out.splitlines())) <= 80
    description = printed.out.split("\n\n")[1]
    assert len(description) > 60
    assert description.endswith(".")


@pytest.mark.parametrize("command", ["show", "spectrum", "layers", "bench"])
def test_what_a_program_may_read_documents_its_keys(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--json" in capsys.readouterr().out


def test_module_runs_as_a_program():
    status, output, errors = finished("-m", "convmat", "show", *LAYER)
    assert (status, errors) == (0, "")
    assert output.startswith("convolution  kernel 3 x 3, stride 2 x 2")
    assert "0,0  ef. hi. ..." not in output  # the input has rows of 5
    assert "0,0  ef... hi... ..... ..... .....\n" in output


def test_show_loads_only_what_it_needs():
    names = ("matplotlib", "PIL", "onnx", "torch", "pylops", "scipy.signal")
    code = f"""
import sys
from convmat.cli import main
main(sys.argv[1:])
print(*(name for name in {names} if name in sys.modules))
"""
    status, output, errors = finished("-c", code, "show", *LAYER, "--json")
    assert (status, errors) == (0, "")
    document, modules, _ = output.split("\n")
    assert json.loads(document)["nnz"] == 49
    assert modules == ""


def test_ctrl_c_exits_with_130_and_without_a_traceback():
    code = """
import os, signal, sys, time
from convmat.cli import main, show
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
show.run = lambda parsed: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60))
sys.exit(main(sys.argv[1:]))
"""
    status, output, errors = finished("-c", code, "show", *LAYER)
    assert (status, output, errors) == (128 + signal.SIGINT, "", "convmat: interrupted\n")


def test_a_closed_pipe_leaves_no_traceback():
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(**program("-m", "convmat", "show", *LAYER, stdout=write)) as process:
        os.close(write)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")


def test_what_does_not_fit_into_memory_exits_with_1():
    status, message = cli.fail("spectrum", "--input", "64x64", "--kernel", "31", "--channels", "10000000,10000000")
    assert status == 1
    assert "allocate" in message


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("animate", *LAYER, "-o", "x.gif"), "matplotlib", "plot"),
        (("spectrum", *LAYER, "-o", "x.png"), "matplotlib", "plot"),
        (("layers", __file__), "onnx", "onnx"),
        (("demo",), "matplotlib", "plot"),
    ],
)
def test_a_missing_extra_exits_with_1_and_is_named(words, module, extra, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    status, message = cli.fail(*words)
    assert status == 1
    assert f"pip install 'convmat[{extra}]'" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", *LAYER, "--width", "39"), "--width 39 must be at least 40"),
        (("show", *LAYER, "--height", "3"), "--height 3 must be at least 4"),
        (
            ("show", "--input", "50x50", "--kernel", "3", "--picture", "taps", "--width", "80"),
            "--picture taps needs 2500 columns",
        ),
        (("show", *LAYER, "--picture", "oil"), "invalid choice: 'oil'"),
        (("layers", "no-such-model.onnx"), "no-such-model.onnx is not a file"),
        (("layers", __file__, "--input-shape", "x=3xy"), "'x=3xy' must be a shape"),
        (("animate", *LAYER), "required: -o/--output"),
        (("bench", "--quickly"), "unrecognized arguments: --quickly"),
    ],
)
def test_bad_arguments_exit_with_2(words, message):
    status, printed = cli.fail(*words)
    assert status == 2
    assert message in printed


def test_a_bad_environment_exits_with_2(monkeypatch):
    monkeypatch.setenv("CONVMAT_NUM_THREADS", "many")
    status, message = cli.fail("show", *LAYER)
    assert (status, "CONVMAT_NUM_THREADS='many' must be a positive integer" in message) == (2, True)


def test_a_defect_is_not_hidden(monkeypatch):
    """An error of our own is no bad argument: it keeps its traceback."""

    def broken(parsed):
        raise ValueError("a defect")

    monkeypatch.setattr(show, "run", broken)
    with pytest.raises(ValueError, match="a defect"):
        main(["show", *LAYER])


def test_animation_is_written_and_named(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "out.gif"
    words = ("--input", "3", "--kernel", "2", "--channels", "2,2", "--draw-channels", "1,0", "--view", "none")
    assert cli.run("animate", *words, "-o", path) == f"animation: {path}\n"
    with Image.open(path) as animation:
        assert animation.n_frames == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "4x4", "-o", "out.xyz"), "must end in one of .gif"),
        (("--input", "4x4", "-o", "out.gif", "--fps", "0"), "fps=0.0 must be positive"),
        (("--input", "4x4x4", "-o", "out.gif"), "3 spatial axes"),
    ],
)
def test_what_cannot_be_animated_exits_with_2(words, message, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, printed = cli.fail("animate", "--kernel", "3", *words)
    assert status == 2
    assert message in printed
    assert list(tmp_path.iterdir()) == []


def test_demo_shows_ten_images_and_both_solvers_agree(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure) or path)
    printed = cli.run("demo", "--out", tmp_path)
    assert float(printed.split("the same, to ")[1].split()[0]) < 1e-5
    assert printed.endswith(f"picture: {tmp_path / 'convmat_demo.png'}\n")
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    (figure,) = figures
    assert len(figure.axes) == 10
    assert all(ax.get_title() for ax in figure.axes)


def test_version_of_the_program():
    assert finished("-m", "convmat", "--version")[:2] == (0, f"convmat {convmat.__version__}\n")
