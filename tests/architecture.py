"""The layers of the package, and what its modules import, read from the code: the figure in CONTRIBUTING.md comes from here
(`python tests/architecture.py`), and tests/test_house.py holds the code to it."""
import ast, re, textwrap
from pathlib import Path
from llms import ROOT

START, END = '<!-- drawn by tests/architecture.py -->', '<!-- end of the drawing -->'

# A module imports only from modules before it, wherever in its code the import stands.
LAYERS = {
    'ground': ['core', 'columns', 'data', 'language', 'tables', 'mapping', 'readers', 'preprocess',
               'embedding_cache', 'embedding_space', 'encoder_models', 'model_files', 'pictures',
               'encode', 'pretrain'],
    'measuring': ['metrics', 'case_files', 'leakage'],
    'numbers': ['vectors', 'dataset', 'algebra', 'features', 'encoder_choice'],
    'learning': ['transfer', 'learner', 'discrepancy', 'finetune'],
    'experts': ['expert', 'baselines', 'incremental', 'closed_form', 'sequence', 'two_tower', 'tuned_text', 'semantic_ids',
                'fusion'],
    'judging': ['shortcuts', 'evaluation'],
    'after the ranking': ['lists', 'search', 'serve', 'judge', 'lm_recommender', 'explain', 'online', 'privacy',
                          'confidence', 'off_policy', 'model_folder'],
    'the face': ['recommender'],
    'the pipeline': ['report', 'pipeline', 'scale', 'web', 'service', 'cli'],
}
ORDER = [module for modules in LAYERS.values() for module in modules]
OLD = ['experts', 'recommend']    # of the first edition; they only say where their names are today

def files():
    "Modules that come from chapters, by name."
    return {p.stem: p for p in sorted((ROOT/'llmrec').glob('[a-z]*.py')) if p.stem not in OLD}

def imported(node):
    "Modules of the package that one statement imports, and the names it takes from them."
    if isinstance(node, ast.Import):
        return [(a.name.split('.')[1], []) for a in node.names if a.name.startswith('llmrec.')]
    if not isinstance(node, ast.ImportFrom): return []
    whole = '.'*node.level + (node.module or '')
    names = [a.name for a in node.names]
    if whole in ('.', 'llmrec'): return [(name, []) for name in names]
    found = re.fullmatch(r'(?:\.|llmrec\.)(\w+)', whole)
    return [(found[1], names)] if found else []

def imports(path, everywhere=True):
    "(line, module, names) of each import from the package: in the whole file, or of its top level only."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    nodes = ast.walk(tree) if everywhere else tree.body
    return [(n.lineno, module, names) for n in nodes for module, names in imported(n) if module in ORDER]

def edges(everywhere=True):
    "Module to the set of modules it imports."
    return {m: {x for _, x, _ in imports(p, everywhere)} - {m} for m, p in files().items()}

def upward():
    "Imports that go up in the list of layers, or sideways into the module itself."
    return [f'{m}.py:{line} imports {x}' for m, p in files().items() for line, x, _ in imports(p)
            if ORDER.index(x) >= ORDER.index(m)]

def private():
    "Private names that cross from one module into another."
    return [f'{m}.py:{line} imports {name} from {x}' for m, p in files().items()
            for line, x, names in imports(p) for name in names if name.startswith('_')]

def circles():
    "Modules that lead back to themselves."
    to = edges()
    return [m for m in to if m in reach(to, m)]

def reach(to, start):
    "All that `start` leads to."
    seen, todo = set(), list(to[start])
    while todo:
        x = todo.pop()
        if x in seen: continue
        seen.add(x)
        todo += to.get(x, [])
    return seen

def straight(to):
    "Edges without those that a longer way implies."
    return {m: to[m].difference(*(reach(to, x) for x in to[m])) for m in to}

def layer_edges():
    "Layer to the set of layers that its modules need, those left out that a longer way implies."
    layer = {m: name for name, modules in LAYERS.items() for m in modules}
    to = {name: set() for name in LAYERS}
    for m, needed in edges().items(): to[layer[m]] |= {layer[x] for x in needed} - {layer[m]}
    return straight(to)

def layers()->str:
    "The layers as a Mermaid figure: a box for each, few enough for a narrow page."
    known = files()
    number = {name: i for i, name in enumerate(LAYERS)}
    out = ['```mermaid', 'flowchart TB']
    for name, i in number.items():
        modules = '<br/>'.join(textwrap.wrap(', '.join(m for m in LAYERS[name] if m in known), 26))
        out.append(f'  s{i}["<b>{name}</b><br/>{modules}"]')
    for name, needed in layer_edges().items():
        if needed: out.append(f"  s{number[name]} --> {' & '.join(sorted(f's{number[x]}' for x in needed))}")
    return '\n'.join([*out, '```'])

def drawing()->str:
    "The figure, and a table of what each module needs."
    now, ever = edges(False), edges()
    later = {m: {x for x in ever[m] - reach(now, m)} for m in ever}
    direct = straight(now)
    rows = ['| module | needs | when called |', '|---|---|---|']
    for m in sorted(now, key=ORDER.index):
        called = later[m].difference(*(reach(ever, x) for x in later[m]))
        rows.append(f"| {m} | {', '.join(sorted(direct[m]))} | {', '.join(sorted(called))} |")
    table = '\n'.join(rows)
    return f'{layers()}\n\n<details><summary>What each module needs</summary>\n\n{table}\n\n</details>'

def contributing()->str:
    "CONTRIBUTING.md with the figure of today."
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    return re.sub(f'{START}.*?{END}', lambda _: f'{START}\n{drawing()}\n{END}', text, flags=re.S)

def report()->str:
    "What the house rules count, a line each."
    lengths = {m: len(p.read_text(encoding='utf-8').splitlines()) for m, p in files().items()}
    longest = sorted(lengths.items(), key=lambda x: -x[1])
    return (f'{len(lengths)} modules; circles {circles()}; upward {upward()}; private {private()}\n'
            + ', '.join(f'{m} {n}' for m, n in longest))


if __name__ == '__main__':
    (ROOT/'CONTRIBUTING.md').write_text(contributing(), encoding='utf-8')
    print(report())
