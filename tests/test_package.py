"""The package as others install it: wheel and sdist hold conf/ and ablations/ and work away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.package
ROOT = Path(__file__).resolve().parent.parent


def call(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, borrowing the installed dependencies."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(str(Path(torch.__file__).parent.parent) + "\n")
    python = folder / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", next(dist.glob("*.whl")))
    return python


def test_wheel_and_sdist_hold_what_they_need(dist: Path) -> None:
    names = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
    assert {"repro/cli.py", "repro/conf/train.yaml", "repro/conf/model/resnet50.yaml"} <= names
    assert {"repro/ablations/plain_vs_residual.yaml", "repro/report/page.md.j2"} <= names
    assert not any(name.startswith(("tests/", "runs/")) for name in names)
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"conf/train.yaml", "ablations/resnext_groups.yaml", "Makefile", "constraints.txt", "LICENSE"} <= inside


@pytest.mark.training
def test_the_wheel_lists_and_runs_a_smoke_study(python: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "REPRO_RUNS": str(tmp_path / "runs"), "PYTHONPATH": ""}
    script = python.parent / "repro"
    where = call(python, "-c", "import repro; print(repro.__file__)", cwd=tmp_path, env=environment)
    assert str(python.parent.parent) in where
    listed = json.loads(call(script, "list", "--json", cwd=tmp_path, env=environment))
    assert "plain_vs_residual" in {row["name"] for row in listed}
    page = call(script, "run", "plain_vs_residual", "scale=smoke", "seeds=1", cwd=tmp_path, env=environment)
    assert "# Plain against residual networks · smoke scale" in page
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    assert [result["status"] for result in results] == ["finished", "finished"]
    assert all(result["environment"]["commit"] is None for result in results), "a wheel has no commit"


def test_the_pins_hold_no_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)
