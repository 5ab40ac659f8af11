"""Where a result comes from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from samtune.record import provenance


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def checkout(folder: Path) -> str:
    """Make a git checkout with one commit, and return the commit."""
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    return git(folder, "rev-parse", "HEAD")


def test_the_commit_is_that_of_samtune_wherever_its_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, users = tmp_path / "samtune", tmp_path / "users"
    home.mkdir(), users.mkdir()
    mine, other = checkout(home), checkout(users)
    monkeypatch.chdir(users)
    monkeypatch.setattr(provenance, "__file__", str(home / "samtune" / "record" / "x.py"))
    assert provenance.git_commit() == mine != other
    # Another branch, whose reference is packed; and a linked work tree.
    git(home, "checkout", "-q", "-b", "branch")
    git(home, "pack-refs", "--all")
    assert provenance.git_commit() == mine
    git(home, "worktree", "add", "-q", str(tmp_path / "tree"))
    tree = tmp_path / "tree" / "samtune" / "record" / "x.py"
    monkeypatch.setattr(provenance, "__file__", str(tree))
    assert provenance.git_commit() == mine


def test_an_installed_samtune_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path / "project")
    site = tmp_path / "project" / "venv" / "lib"
    site.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(site / "samtune" / "record" / "x.py"))
    assert provenance.git_commit() is None
    (site / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None and provenance.git_commit() is None
