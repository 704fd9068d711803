"""Every chapter runs from top to bottom: one case a notebook."""
import os, re, sys
from pathlib import Path
import pytest
from nbdev.test import test_nb as run_nb

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted((ROOT/'nbs').glob('*.ipynb'))
FLAGS = 'notest cuda slow net'.split()


@pytest.fixture(autouse=True)
def untouched():
    "Give back the environment, the folder and the import path that a chapter changed."
    env, cwd, path = dict(os.environ), os.getcwd(), list(sys.path)
    yield
    os.environ.clear(); os.environ.update(env); os.chdir(cwd); sys.path[:] = path
    if plt := sys.modules.get('matplotlib.pyplot'): plt.close('all')


@pytest.mark.parametrize('nb', NBS, ids=lambda p: p.stem)
def test_chapter(nb, capfd):
    ok, _ = run_nb(nb, skip_flags=FLAGS)
    if not ok: pytest.fail(re.sub(r'\x1b\[[0-9;]*m', '', capfd.readouterr().err)[-6000:], pytrace=False)
