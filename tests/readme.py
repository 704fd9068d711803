"""Write README.md from nbs/index.ipynb: `python tests/readme.py`.

Not with `nbdev_readme`, which `nbdev_docs` and `nbdev_prepare` call too: where Quarto is installed it writes a README whose links
and picture lead nowhere. After one of them: `git checkout README.md`."""
import json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _text(x): return x if isinstance(x, str) else ''.join(x)

def _links(md):
    "Links relative to `nbs/` become links relative to the top; attributes of pictures are for Quarto."
    md = re.sub(r'(!\[[^\]]*\]\([^)]*\))\{[^}]*\}', r'\1', md)
    return re.sub(r'(\]\()(?![a-z]+:|#|/|\.\./)([^)]+\))', r'\1nbs/\2', md).replace('](../', '](')

def _output(o):
    "Text of one output, indented; pictures live in files and are linked by the prose."
    t = o.get('text') or o.get('data', {}).get('text/markdown') or o.get('data', {}).get('text/plain') or ''
    if 'text/markdown' in o.get('data', {}): return _links(_text(t))
    return '\n'.join('    ' + l if l else '' for l in _text(t).rstrip('\n').split('\n')) if t else ''

def _cell(c):
    src = _text(c['source'])
    if c['cell_type'] == 'markdown': return [_links(src)]
    if c['cell_type'] != 'code': return []
    flags = {m.group(1).strip() for m in re.finditer(r'^#\|(.*)$', src, re.M)}
    if 'hide' in flags: return []
    code = re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip()
    outs = [] if 'output: false' in flags else [t for t in map(_output, c['outputs']) if t]
    return ([] if not code or 'echo: false' in flags else [f'```python\n{code}\n```']) + outs

def readme(nb:Path)->str:
    "The text of README.md."
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    md = '\n\n'.join(t for c in cells for t in _cell(c))
    title = re.match(r'# (.*)\n+> (.*)\n(\n- \w+: .*\n)*', md + '\n')   # settings of the page, for Quarto only
    if title: md = f'# {title[1]}\n\n{title[2]}\n' + (md + '\n')[title.end():]
    return ('<!-- Written from nbs/index.ipynb by tests/readme.py: edit that. -->\n\n' + md).rstrip('\n') + '\n'


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(ROOT/'nbs'/'index.ipynb'), encoding='utf-8')
