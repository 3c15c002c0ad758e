"""Completion by shells: the scripts for them, and what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cli import SCRIPT, recon3d


def complete(line: str) -> list[str]:
    """What bash is told when Tab is pressed at the end of a line."""
    words = line.split(" ")
    env = {"_RECON3D_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = recon3d(env=env)
    assert (done.status, done.err) == (0, "")
    return done.out.split()


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("bash", "complete -o default -F _recon3d_completion recon3d"),
        ("zsh", "#compdef recon3d"),
        ("fish", "complete --command recon3d"),
    ],
)
def test_there_is_a_script_for(shell: str, said: str) -> None:
    done = recon3d(env={"_RECON3D_COMPLETE": f"source_{shell}"})
    assert done.status == 0 and said in done.out and f"complete_{shell}" in done.out


def test_commands_options_choices_and_formats_are_completed() -> None:
    assert complete("recon3d ph") == ["photo"]
    assert "--max-faces" in complete("recon3d photo --max")
    assert complete("recon3d photo --landmarks ") == ["mediapipe", "fan"]
    assert complete("recon3d photo x.jpg --format o") == ["obj", "overlay"]
    assert complete("recon3d video x.mp4 --format livelink,us") == ["livelink,usd"]
    assert complete("recon3d export x.npz --format glb,glb") == ["glb,glb-skeleton", "glb,glb-curves"]
    assert complete("recon3d nothing-like-it") == []


def test_zsh_and_fish_are_told_what_commands_do() -> None:
    zsh = recon3d(env={"_RECON3D_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "recon3d ph"})
    assert '"photo":"Reconstruct the heads in photographs."' in zsh.out
    fish = {"_RECON3D_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = recon3d(env={**fish, "_TYPER_COMPLETE_ARGS": "recon3d ph"})
    assert done.out.split("\t")[0] == "photo"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_it_is_installed_for_the_shell_at_hand_and_works(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"}

    def bash(text: str) -> str:
        done = subprocess.run(
            ["bash", "--norc", "-c", text + "\ntrue"], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "complete -o default" in bash("recon3d --show-completion")
    bash("recon3d --install-completion")
    assert ".bash_completions/recon3d.sh" in (tmp_path / ".bashrc").read_text()
    tab = "COMP_WORDS=(recon3d ph); COMP_CWORD=1; _recon3d_completion recon3d; echo ${COMPREPLY[@]}"
    assert bash(f". ~/.bash_completions/recon3d.sh; {tab}").split() == ["photo"]
