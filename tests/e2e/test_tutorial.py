"""The commands of the tutorial and of the README's tour, run as they are printed, with the output that they show."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tidings.testing.ports import free_port

ROOT = Path(__file__).parents[2]
#: seconds for all commands of a page
TIMEOUT = 120
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: commands that run until they are stopped, each in a terminal of its own
_SERVER = re.compile(r"^(?:(?:\w+=\S+ )?\.venv/bin/tidings (?:serve|mock-push)|make run)\b", re.MULTILINE)
#: ports named in the pages
_PORT = re.compile(r"(?<=[: ])(8000|9000)\b")
_SEPARATOR = "--- end of the step ---"
#: A reader takes longer to continue than a delivery takes; the test waits for its end.
_WAIT = """until curl -s $API/notifications/$ID -H "Authorization: Bearer $KEY" | grep -q '"finished":true'; do :; done
"""
_EXPLAINING = re.compile(r"^(?=for WHO in|\.venv/bin/tidings explain)", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """The commands of one block, and the output that the page shows; None = it shows none."""

    commands: str
    output: str | None

    @property
    def is_server(self) -> bool:
        return _SERVER.search(self.commands) is not None


def read_steps(page: str, *, heading: str = "") -> list[Step]:
    """Return the steps of a page or of one of its sections."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = [*_BLOCK.findall(text), ("", "")]
    return [
        Step(block, following if kind == "text" else None)
        for (language, block), (kind, following) in pairwise(blocks)
        if language == "sh"
    ]


@dataclass(frozen=True)
class Terminal:
    """A folder like a checkout after `make install`, and free ports in place of those in the pages."""

    folder: Path
    ports: dict[str, str]

    @property
    def environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        return {**inherited, "NO_COLOR": "1", "TIDINGS_PORT": self.ports["8000"], "PYTHONUNBUFFERED": "1"}

    def substitute(self, text: str) -> str:
        return _PORT.sub(lambda found: self.ports[found[0]], text)

    def command(self, script: str) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", self.substitute(script)]

    @contextmanager
    def run_server(self, step: Step) -> Iterator[str]:
        """Run a server for the duration of the block; yield what it prints until it is ready."""
        script = step.commands.replace("make install\n", "").replace("make run", ".venv/bin/tidings serve --demo")
        with subprocess.Popen(
            self.command(script.rstrip().replace(".venv/bin/tidings", "exec .venv/bin/tidings")),
            env=self.environ,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                lines = []
                for line in process.stdout:
                    lines.append(line)
                    if "Stop with Ctrl-C" in line or '"origin"' in line:
                        break
                yield "".join(lines)
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)

    def run_steps(self, steps: Sequence[Step]) -> list[str]:
        """Run steps in one shell, as a reader does; return the output of each."""
        script = f"\nprintf '%s\\n' '{_SEPARATOR}'\n".join(
            _EXPLAINING.sub(lambda _: _WAIT, step.commands) for step in steps
        )
        done = subprocess.run(
            self.command(script), env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.split(f"{_SEPARATOR}\n")

    def check(self, step: Step, output: str) -> None:
        """Compare with the output on the page, in which `…` stands for any text."""
        if step.output is not None:
            # indentation and line ends are left to the formatter of the page
            lines = [re.escape(line.strip()) for line in self.substitute(step.output).strip().splitlines()]
            pattern = r"\s*".join(lines).replace("…", ".*?")
            assert re.fullmatch(pattern, output.strip(), re.DOTALL), f"{step.commands}\nprinted:\n{output}"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return Terminal(tmp_path, {"8000": str(free_port()), "9000": str(free_port())})


def run_page(terminal: Terminal, steps: Sequence[Step]) -> list[str]:
    """Run the servers of a page and then its other steps, and check each output."""
    with ExitStack() as stack:
        for step in steps:
            if step.is_server:
                terminal.check(step, stack.enter_context(terminal.run_server(step)))
        others = [step for step in steps if not step.is_server]
        outputs = terminal.run_steps(others)
        for step, output in zip(others, outputs, strict=True):
            terminal.check(step, output)
    return outputs


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(terminal: Terminal) -> None:
    steps = [step for step in read_steps("docs/tutorial/first-notification.md") if "make run" not in step.commands]
    assert sum(step.output is not None for step in steps) >= 6
    run_page(terminal, steps)


@pytest.mark.extended
def test_the_tour_prints_what_it_shows(terminal: Terminal) -> None:
    steps = [
        Step("make run\n", None),
        *read_steps("README.md", heading="A tour in five minutes"),
    ]
    assert sum(step.output is not None for step in steps) >= 4
    run_page(terminal, steps)
