"""Write what the site has beside its chapters, from the chapters and the package: `python tests/pages.py`.

`nbs/api.qmd` and `nbs/apilist.txt` list every public name with its one-line summary, `nbs/references.qmd` the papers of
`nbs/references.bib` with the chapters that cite them, `nbs/changes.qmd` is CHANGELOG.md, `nbs/how_to_read.qmd` gets its tables. Citations in the chapters (`Steck, 2018`) become links to that page, wide
tables get columns as wide as their content, plain entries of the sidebar (`- 07_vectors.ipynb`) their number and title."""
import ast, functools, json, re
from pathlib import Path
from guide import PAGE, how_to_read, onward
from llms import ROOT, chapter, entries, stem

NBS = ROOT/'nbs'

# The interface
def modidx():
    "Addresses of names, by module, as nbdev linked them."
    scope = {}
    exec((ROOT/'llmrec'/'_modidx.py').read_text(encoding='utf-8'), scope)
    return {home.split('.')[1]: names for home, names in scope['d']['syms'].items()}

def public(name): return not any(part.startswith('_') for part in name.split('.'))

def patched(node):
    "The class that a function with `@patch` belongs to, or None."
    if not any('patch' in ast.unparse(d) for d in node.decorator_list) or not node.args.args: return None
    return ast.unparse(node.args.args[0].annotation).strip("'")


# What methods of these names do wherever they stand.
USUAL = {'forward': 'What the module computes.', 'state_dict': 'What a checkpoint keeps of it.', 'load_state_dict': 'Take back what a checkpoint kept.',
           **{f'{when}_{what}': f'Called {when} each {what}.' for when in ('before', 'after') for what in ('epoch', 'batch', 'step', 'loss')},
           'before_fit': 'Called before the training.', 'after_fit': 'Called after the training.', 'cleanup_fit': 'Called however the training ends.',
         'put': 'Keep a value under a name.', 'get': 'The value under a name; None: there is none.', 'close': 'Let go of what is open.'}


@functools.cache
def protocol():
    "What the methods of `Expert` do, for the classes that only say how."
    tree = ast.parse((ROOT/'llmrec'/'expert.py').read_text(encoding='utf-8'))
    [cls] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == 'Expert']
    return {f.name: first_line(f) for f in cls.body if isinstance(f, ast.FunctionDef)}

def first_line(node): return (ast.get_docstring(node) or '').strip().split('\n')[0]

def summary(node):
    "One line on a name: its docstring; of a method without one what all such methods do, or what it returns."
    said = first_line(node) or USUAL.get(node.name) or protocol().get(node.name, '')
    if said or not isinstance(node, ast.FunctionDef): return said
    last = node.body[-1]
    value = ast.unparse(last.value) if isinstance(last, ast.Return) and last.value is not None else ''
    return f'`{value}`' if value and len(value) <= 90 else ''

def definitions(path):
    "Public names of a module in the order of its code: (name, signature, summary, has a section of its own on the page)."
    out = {}
    def add(name, node, own):
        if not public(name) or name in out: return
        doc = summary(node)
        args = node if isinstance(node, ast.FunctionDef) else next(
            (n for n in getattr(node, 'body', []) if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
        names = [] if args is None else signature(args.args)
        out[name] = (name, f'({", ".join(n for n in names if n != "self")})', doc, own)
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.FunctionDef):
            cls = patched(node)
            add(f'{cls}.{node.name}' if cls else node.name, node, True)
        if isinstance(node, ast.ClassDef):
            add(node.name, node, True)
            for n in node.body:
                if isinstance(n, ast.FunctionDef): add(f'{node.name}.{n.name}', n, False)
    return list(out.values())

def signature(a):
    "Parameters and defaults, without types."
    plain = [*a.posonlyargs, *a.args]
    default = dict(zip([p.arg for p in plain[len(plain) - len(a.defaults):]], a.defaults))
    default |= {p.arg: d for p, d in zip(a.kwonlyargs, a.kw_defaults) if d is not None}
    show = lambda p: p.arg + (f'={ast.unparse(default[p.arg])}' if p.arg in default else '')
    star = [f'*{a.vararg.arg}'] if a.vararg else ['*'] if a.kwonlyargs else []
    return [*map(show, plain), *star, *map(show, a.kwonlyargs), *([f'**{a.kwarg.arg}'] if a.kwarg else [])]

def modules():
    "(module, chapter, its public names) in the order of the sidebar."
    index = modidx()
    for _, pages in entries():
        for page in pages:
            name = stem(page)
            if name in index: yield name, page, definitions(ROOT/'llmrec'/f'{name}.py')

def face():
    "The names that `from llmrec import …` offers, by module."
    tree = ast.parse((ROOT/'llmrec'/'__init__.py').read_text(encoding='utf-8'))
    return {a.name: n.module for b in tree.body if isinstance(b, ast.If) for n in b.body if isinstance(n, ast.ImportFrom)
            for a in n.names}

def cell(text):
    "Text inside a table of Markdown: signs that mean something there are escaped, code stays."
    parts = re.split(r'(`[^`]*`)', text)
    return ''.join(re.sub(r'([*_$<|~^\[\]]|(?<!\w)@)', r'\\\1', p) if i % 2 == 0 else p.replace('|', '\\|') for i, p in enumerate(parts))

def address(module, name, own):
    "Where a name stands: methods written inside their class stand in its section."
    return f'{module}.html#{(name if own else name.split(".")[0]).lower()}'

def api()->str:
    "The page of all public names, chapter by chapter."
    found = list(modules())
    where = {n: address(m, n, own) for m, _, names in found for n, _, _, own in names if '.' not in n}
    top = [f'[{n}]({where[n]})' for n in sorted(face(), key=str.lower) if n in where]
    head = ('---\ntitle: Interface\ndescription: Every public name of the package, with its parameters and one line on what it is\n'
            'toc-depth: 2\ncitation: false\n---\n\n'
            f'`import llmrec` offers {len(face())} names: {", ".join(top)}.\n\nAll others are imported from their module, '
            '`from llmrec.vectors import interest_vector`. The same list as plain text: [apilist.txt](apilist.txt).')
    parts = [head]
    for module, page, names in found:
        rows = [f'| [{n}]({address(module, n, own)}) | {cell(doc)} |' for n, _, doc, own in names]
        parts += [f'## {chapter(page)[0]} {{#{module}}}', f'`llmrec.{module}`, [its chapter]({page}). {chapter(page)[1]}.',
                  '\n'.join(['| name | what it is |', '|-----|---------|', *rows])]
    return '\n\n'.join(parts) + '\n'

def apilist()->str:
    "The same for language models, as fastcore has it."
    out = ['# llmrec: all public names']
    for module, page, names in modules():
        rows = [f'- `{"class" if n[0].isupper() and "." not in n else "def"} {n}{args}`\n    {doc}' for n, args, doc, _ in names]
        out.append(f'## llmrec.{module}\n\n> {chapter(page)[1]}\n\n' + '\n\n'.join(rows))
    return '\n\n'.join(out) + '\n'

# The papers
def papers():
    "Entries of references.bib, by key."
    return entries_of((NBS/'references.bib').read_text(encoding='utf-8'))

@functools.cache
def entries_of(text):
    "Entries of a BibTeX file whose fields have a line each."
    found = re.findall(r'@\w+\{(\w+),\n(.*?)\n\}', text, re.S)
    return {key: dict(re.findall(r'^ *(\w+) = \{(.*?)\},?$', body, re.M)) for key, body in found}

def surname(author):
    "Last name, with the particle that belongs to it."
    return re.search(r'(?:\b(?:de|De|Di|van|Van|Ferrari) )?[^ ]+$', author)[0]

def cite_forms(paper):
    "How a text may call a paper's authors: `A`, `A and B`, `A, B and C`, `A et al.`"
    names = [surname(a) for a in paper['author'].split(' and ')]
    known = [p for p in [paper.get('name')] if p]
    if len(names) == 1: return [*names, *known]
    return [*known, f'{", ".join(names[:-1])} and {names[-1]}', *([f'{names[0]} et al.'] if len(names) > 2 else [])]

YEAR = r'((?:, \*[^*\n]+\*)?,? \(?){year}\b'

def cited(text):
    "(start, end, key) of each citation of a known paper in a text."
    out = []
    for key, p in papers().items():
        for form in cite_forms(p) if p['year'] in text else ():
            if form not in text: continue
            pattern = r'(?<![\w-])' + re.escape(form) + YEAR.format(year=p['year'])
            out += [(m.start(), m.end(), key) for m in re.finditer(pattern, text)]
    out.sort()
    return [x for i, x in enumerate(out) if not any(y[0] <= x[0] < y[1] and y != x for y in out[:i])]

MONTHS = ('January February March April May June July August September October November December').split()
NAME = r'(?:(?:de|De|Di|van|Van|Ferrari) )?[A-ZÀ-Ž][\w’-]*[a-zà-ž]'

def citations(text):
    "What looks like a citation, known or not: names and a year in the usual forms."
    pattern = (rf'(?<![\w-])({NAME}(?: et al\.|(?:, {NAME})*,? (?:and|&) {NAME}))(?:, \*[^*\n]+\*)?,? \(?((?:19|20)\d\d)\b'
               rf'|\(({NAME}), ((?:19|20)\d\d)[),;]')
    found = [(m[1] or m[3], m[2] or m[4]) for m in re.finditer(pattern, text)]
    return [f for f in found if not any(month in f[0] for month in MONTHS)]

def link(text):
    "Citations as links to the page of references; what is a link, code or a formula already stays."
    parts = re.split(r'(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\[[^\]\n]*\]\([^)\n]*\))', text, flags=re.S)
    for i in range(0, len(parts), 2):
        for start, end, key in reversed(cited(parts[i])):
            part = parts[i]
            stop = end + (part[end:end + 1] == ')' and '(' in part[start:end])
            parts[i] = f'{part[:start]}[{part[start:stop]}](references.qmd#{key}){part[stop:]}'
    return ''.join(parts)

def book():
    "Chapters as (file name, notebook)."
    return [(p.name, json.loads(p.read_text(encoding='utf-8'))) for p in sorted(NBS.glob('*.ipynb'))]

def mend_chapters():
    "Link the citations of all chapters, give their tables widths, and let each lead to the next."
    for name, nb in book():
        before = json.dumps(nb)
        last = [c for c in nb['cells'] if c['cell_type'] == 'markdown'][-1]
        last['source'] = onward(name, ''.join(last['source'])).splitlines(True)
        for c in nb['cells']:
            if c['cell_type'] == 'markdown': c['source'] = evened(link(''.join(c['source']))).splitlines(True)
        if json.dumps(nb) != before:
            (NBS/name).write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def citing():
    "Key of a paper to the chapters that cite it, in their prose or in a docstring."
    out = {key: [] for key in papers()}
    for name, nb in book():
        text = '\n'.join(''.join(c['source']) for c in nb['cells'])
        found = {key for _, _, key in cited(text)} | set(re.findall(r'references\.qmd#(\w+)\)', text))
        for key in found & set(out): out[key].append(name)
    return out

def references()->str:
    "The page of the papers."
    head = ('---\ntitle: References\ndescription: The papers that the chapters cite, and where\ncitation: false\n---\n\n'
            'The same as BibTeX: [references.bib](references.bib).')
    where = citing()
    def entry(key, p):
        names = p['author'].split(' and ')
        who = names[0] if len(names) == 1 else ', '.join(names[:-1]) + ' and ' + names[-1]
        pages = ', '.join(f'[{name[:2]} {chapter(name)[0]}]({name})' for name in where[key])
        return (f'- []{{#{key}}}{who} ({p["year"]}). [{p["title"]}]({p["url"]}). {p["venue"]}.'
                + f' Cited in {pages}.')
    order = sorted(((key, p) for key, p in papers().items() if where[key]), key=lambda x: (surname(x[1]['author'].split(' and ')[0]).lower(), x[1]['year']))
    return head + '\n\n' + '\n'.join(entry(key, p) for key, p in order) + '\n'

def changes()->str:
    "CHANGELOG.md as a page."
    head = '---\ntitle: Changes\ndescription: What is new in each version\ncitation: false\n---\n\n'
    return head + re.sub(r'^# .*\n+', '', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'))

# Tables
TABLE = re.compile(r'^(\|.*\n)(\|[-:| ]+)(\n(?:\|.*(?:\n|$))+)', re.M)

def columns(line):
    "Cells of one line of a table, as wide as a reader sees them."
    line = re.sub(r'\]\([^)]*\)|[`*\[\\{}]', '', re.sub(r'\\[|]', '/', line.strip()))
    return [c.strip() for c in line.strip('|').split('|')]

def dashes(table):
    "The second line of a table: Pandoc gives a column as much of the page as its share of the dashes, if a line is long."
    rows = [columns(line) for line in table.strip().split('\n')]
    wide = [min(max((len(r[i]) for r in rows if i < len(r)), default=1), 80) for i in range(len(rows[0]))]
    word = [max((len(w) for r in rows for w in r[i:i + 1] for w in w.split()), default=1) for i in range(len(wide))]
    share = [max(w/sum(wide), min(long, 20)/48) for w, long in zip(wide, word)]       # no word breaks on a phone
    return '|' + '|'.join('-'*max(3, round(24*s/sum(share))) for s in share) + '|'

def evened(text):
    "Text whose wide tables have columns as wide as what stands in them; what is code stays."
    def one(m):
        if max(map(len, m[0].split('\n'))) <= 72: return m[0]
        return m[1] + dashes(m[1] + m[3].lstrip('\n')) + m[3]
    parts = re.split(r'(```.*?```)', text, flags=re.S)
    return ''.join(TABLE.sub(one, part) if i % 2 == 0 else part for i, part in enumerate(parts))

# The sidebar
def sidebar()->str:
    "_quarto.yml with numbers and titles in front of the sidebar's chapters, one a line."
    text = (ROOT/'_quarto.yml').read_text(encoding='utf-8')
    def full(name): return f'{{href: {name}, text: "{name[:2]} {chapter(name)[0]}"}}'
    def lines(m):
        names = re.findall(r'\d\d_\w+\.ipynb(?=[,\]])', m[2])
        return m[1] + 'contents:' + ''.join(f'\n{m[1]}  - {full(n)}' for n in names)
    text = re.sub(r'^( +)contents: \[((?:\d\d_\w+\.ipynb(?:, )?)+\])', lines, text, flags=re.M)
    text = re.sub(r'^( +- )(\d\d_\w+\.ipynb)$', lambda m: m[1] + full(m[2]), text, flags=re.M)
    return re.sub(r'\{href: (\d\d_\w+\.ipynb), text: [^}]*\}', lambda m: full(m[1]), text)

def pages():
    "Files and their texts."
    return {PAGE: lambda: evened(how_to_read()), NBS/'api.qmd': api, NBS/'apilist.txt': apilist, NBS/'references.qmd': references, NBS/'changes.qmd': changes,
            ROOT/'_quarto.yml': sidebar}

def main():
    mend_chapters()
    for path, text in pages().items(): path.write_text(text(), encoding='utf-8')


if __name__ == '__main__': main()
