"""No option of a cell twice: `python .github/one_fold.py _proc`, between nbdev_proc_nbs and Quarto.

nbdev puts `code-fold: show` before each exported cell, also where the cell itself says `code-fold: true`. YAML does not allow a key twice, and Quarto
reads the options of cells as YAML. The cell's own word counts. Standard library only; tests/test_site.py holds it."""
import json, sys
from pathlib import Path


def one_fold(source):
    "The source of a cell without nbdev's fold where it has its own."
    lines = source.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not line.startswith('#|')), len(lines))
    folds = [line for line in lines[:end] if line.startswith('#| code-fold:')]
    if len(folds) < 2: return source
    return ''.join(line for line in lines[:end] if line.strip() != '#| code-fold: show') + ''.join(lines[end:])

def mend(path):
    "Mend one notebook; how many cells changed."
    nb = json.loads(path.read_text(encoding='utf-8'))
    changed = 0
    for cell in nb['cells']:
        before = ''.join(cell['source'])
        after = one_fold(before) if cell['cell_type'] == 'code' else before
        if after == before: continue
        cell['source'] = after
        changed += 1
    if changed: path.write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')
    return changed


if __name__ == '__main__': print(f'{sum(map(mend, sorted(Path(sys.argv[1]).rglob("*.ipynb"))))} cells had two folds')
