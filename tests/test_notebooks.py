"""Every chapter runs from top to bottom, with the solutions of its exercises: one case a notebook."""
import os, re, sys
from pathlib import Path
import nbdev.test, pytest
from execnb.nbio import mk_cell
from nbdev.test import NBProcessor, test_nb as run_nb
from exercises import FLAGS, blocks

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted((ROOT/'nbs').glob('*.ipynb'))

class WithSolutions(NBProcessor):
    "A chapter with the code of its folded solutions in cells of their own, below the text where they stand."
    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.nb.cells = [x for cell in self.nb.cells for x in (cell, *solutions(cell))]

def solutions(cell):
    "Solutions of one cell as cells."
    return [mk_cell(b, 'code') for b in blocks(cell.source)] if cell.cell_type == 'markdown' else []

@pytest.fixture(autouse=True)
def untouched():
    "Give back the environment, the folder and the import path that a chapter changed."
    env, cwd, path = dict(os.environ), os.getcwd(), list(sys.path)
    yield
    os.environ.clear(); os.environ.update(env); os.chdir(cwd); sys.path[:] = path
    if plt := sys.modules.get('matplotlib.pyplot'): plt.close('all')


@pytest.mark.parametrize('nb', NBS, ids=lambda p: p.stem)
def test_chapter(nb, capfd, monkeypatch):
    monkeypatch.setattr(nbdev.test, 'NBProcessor', WithSolutions)
    ok, _ = run_nb(nb, skip_flags=FLAGS)
    if not ok: pytest.fail(re.sub(r'\x1b\[[0-9;]*m', '', capfd.readouterr().err)[-6000:], pytrace=False)

def test_a_wrong_solution_fails(tmp_path, capfd, monkeypatch):
    "The solution of an exercise sees the chapter's names, runs, and fails the chapter if it is wrong."
    from execnb.nbio import new_nb, write_nb
    monkeypatch.setattr(nbdev.test, 'NBProcessor', WithSolutions)
    for text, right in (('assert x == 2', True), ('assert x == 3', False), ('#| slow\nassert x == 3', True)):
        said = f'1. x?\n\n<details>\n\n1. So:\n\n   ```python\n   {text}\n   ```\n\n</details>\n'.replace('\nassert', '\n   assert')
        write_nb(new_nb([mk_cell('x = 2'), mk_cell(said, 'markdown'), mk_cell('x = 0')]), tmp_path/'x.ipynb')
        assert run_nb(tmp_path/'x.ipynb', skip_flags=FLAGS)[0] is right, capfd.readouterr().err[-2000:]
