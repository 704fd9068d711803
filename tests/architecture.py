"""Draw which module of the package imports which, from the code, into CONTRIBUTING.md: `python tests/architecture.py`."""
import ast, re
from pathlib import Path
from llms import ROOT, entries

START, END = '<!-- drawn by tests/architecture.py -->', '<!-- end of the drawing -->'

def imports(path, names):
    "Modules of the package that a module imports when it is imported itself, and those it imports where it needs them."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    def modules(node):
        if isinstance(node, ast.ImportFrom):
            whole = '.'*node.level + (node.module or '')
            m = re.fullmatch(r'(?:\.|llmrec\.)(\w+)', whole)
            return {m[1]} if m else {a.name for a in node.names} if whole in ('.', 'llmrec') else set()
        return {a.name.split('.')[1] for a in node.names if a.name.startswith('llmrec.')} if isinstance(node, ast.Import) else set()
    first = set().union(*map(modules, tree.body)) & names
    return first, set().union(*map(modules, ast.walk(tree))) & names - first - {path.stem}

def reach(edges, a):
    "All that `a` leads to."
    seen, todo = set(), list(edges[a])
    while todo:
        if (b := todo.pop()) not in seen: seen.add(b); todo += edges[b]
    return seen

def drawing()->str:
    "The figure as Mermaid text; parts of the book are its boxes."
    files = {p.stem: p for p in sorted((ROOT/'llmrec').glob('[a-z]*.py'))}
    now, later = ({m: imports(p, set(files))[i] for m, p in files.items()} for i in (0, 1))
    out = ['```mermaid', 'flowchart BT']
    for i, (part, chapters) in enumerate(entries()):
        inside = [re.sub(r'^\d+_', '', c[:-6]) for c in chapters]
        inside = [m for m in inside if m in files]
        if inside: out.append(f'  subgraph s{i}["{part}"]\n    {" ~~~ ".join(inside)}\n  end')
    for m in files:   # a longer way stands for the shorter one
        straight = now[m].difference(*(reach(now, x) for x in now[m]))
        if straight: out.append(f'  {m} --> {" & ".join(sorted(straight))}')
        rest = later[m] - reach(now, m)
        rest = rest.difference(*(reach(now, x) for x in rest))
        if rest: out.append(f'  {m} -.-> {" & ".join(sorted(rest))}')
    return '\n'.join([*out, '```'])

def contributing()->str:
    "CONTRIBUTING.md with the figure of today."
    t = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    return re.sub(f'{START}.*?{END}', lambda _: f'{START}\n{drawing()}\n{END}', t, flags=re.S)


if __name__ == '__main__': (ROOT/'CONTRIBUTING.md').write_text(contributing(), encoding='utf-8')
