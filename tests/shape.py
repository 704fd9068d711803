"""The shape of chapters: how many cells, how long, how many figures.

`python tests/shape.py` prints a table of the book as it is, `python tests/shape.py 1efd0ac` beside the book of that commit
(1efd0ac is the first edition)."""
import json, re, statistics, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'

# Chapters of the first edition, and what became of them; all others kept their name
SPLIT = dict(encode='encode embedding_space', transfer='transfer discrepancy finetune', learner='learner transfer_study',
             experts='expert baselines closed_form sequence two_tower', metrics='metrics evaluation', recommend='lists judge',
             core='core', pipeline='pipeline recommender')

def text(x): return x if isinstance(x, str) else ''.join(x)
def cells(stem): return read((NBS/f'{stem}.ipynb').read_text(encoding='utf-8'))
def read(nb): return [(c['cell_type'], text(c['source']), c.get('outputs', [])) for c in json.loads(nb)['cells']]

def is_open(kind, src):
    return bool(src.strip()) and (kind == 'markdown' or not re.search(r'^#\| *(hide|export|default_exp.*|code-fold: true) *$', src, re.M))
def lines(src): return len([l for l in src.splitlines() if l.strip() and not l.startswith('#|')])

def seen(found, name=''):
    "Cells that stand open on the page, those of collapsed callouts left out."
    closed = False
    for kind, src, _ in found:
        closed = closed or kind == 'markdown' and 'collapse="true"' in src
        if kind == 'markdown' and src.strip().endswith(':::'): closed = False
        elif not closed and is_open(kind, src): yield kind, src
    assert not closed, f'{name}: a callout is not closed'

def shape(found):
    "Counts of one chapter, or of several together."
    from test_words import long_paragraphs
    here = list(seen(found))
    code = sorted(lines(src) for kind, src in here if kind == 'code')
    pictures = [o for _, _, outputs in found for o in outputs if {'image/png', 'image/svg+xml'} & set(o.get('data', {}))]
    return {'cells': len(found), 'open': len(here), 'median': statistics.median(code) if code else 0,
            'p90': code[int(.9*(len(code) - 1) + .5)] if code else 0, 'over 15': sum(n > 15 for n in code),
            'over 80 words': sum(len(long_paragraphs(src)) for kind, src, _ in found if kind == 'markdown'), 'figures': len(pictures)}

def now(): return {p.stem.partition('_')[2] or p.stem: cells(p.stem) for p in sorted(NBS.glob('*.ipynb'))}

def git(*args): return subprocess.run(['git', *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout

def then(commit):
    "Chapters of a commit, by name."
    paths = [p for p in git('ls-tree', '--name-only', commit, 'nbs/').split() if p.endswith('.ipynb')]
    return {Path(p).stem.partition('_')[2] or Path(p).stem: read(git('show', f'{commit}:{p}')) for p in paths}

def joined(before, after):
    "(what it was, what it is) by name: a chapter beside those that it became, new ones beside nothing."
    rows = []
    for name in before:
        kept = [n for n in SPLIT.get(name, name).split() if n in after]
        rows += [(name if i == 0 else '', n) for i, n in enumerate(kept)] or [(name, '')]
    rest = [n for n in after if n not in {n for _, n in rows}]
    return rows + [('', n) for n in rest]

def row(*values): return '| ' + ' | '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values) + ' |'

def table(after, before=None):
    "Lines of a table in Markdown; with a book before, each count is `before → now`."
    keys = list(shape([]))
    rows = joined(before, after) if before else [('', n) for n in after]
    out = [row('first edition', 'now', *keys), '|' + '---|'*(len(keys) + 2)]
    def counts(found): return shape(found) if found is not None else dict.fromkeys(keys, '–')
    total = lambda book: shape([c for found in book.values() for c in found])
    for old, new in [*rows, ('all', 'all')]:
        a = total(before) if before and old == 'all' else counts((before or {}).get(old))
        b = total(after) if new == 'all' else counts(after.get(new))
        out.append(row(old, new, *(f'{a[k]} → {b[k]}' if before and old else b[k] for k in keys)))
    return out


if __name__ == '__main__': print(*table(now(), then(sys.argv[1]) if len(sys.argv) > 1 else None), sep='\n')
