"""The book, the code and the top-level documents agree."""
import ast, filecmp, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest, yaml
from architecture import END, START, contributing
from llms import llms
from readme import readme

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted((ROOT/'nbs').glob('*.ipynb'))
BOOK = {p.name: json.loads(p.read_text(encoding='utf-8')) for p in NBS}
COMMANDS = ('pip install -c constraints.txt -e ".[tutorial]" && llmrec run', 'pip install -c constraints.txt -e ".[dev]" && pytest')

def text(x): return x if isinstance(x, str) else ''.join(x)
def cells(nb, kind): return [text(c['source']) for c in nb['cells'] if c['cell_type'] == kind]
def prose(nb): return re.sub(r'```.*?```|`[^`\n]*`', '', '\n\n'.join(cells(nb, 'markdown')), flags=re.S)
def links(md): return [u.split(' ')[0] for u in re.findall(r'\]\(([^)]+)\)', md) if not re.match(r'[a-z]+:', u)]
def labels(nb): return re.findall(r'\{#(eq-[\w-]+)[^}]*\}', '\n'.join(cells(nb, 'markdown')))
each_nb = pytest.mark.parametrize('name', BOOK)


def sidebar(node):
    if isinstance(node, str): return [node]
    return sum((sidebar(n) for n in (node if isinstance(node, list) else node.get('contents', [node.get('href')])) if n), [])

def test_sidebar_lists_every_chapter_once():
    parts = yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['sidebar']['contents']
    listed = sidebar(parts)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(BOOK) | {'how_to_read.qmd', 'reading_list.qmd', 'api.qmd', 'references.qmd', 'changes.qmd'}
    for part in parts:                                       # numbers ascend within a section: later chapters join the one they belong to
        numbered = [n for n in sidebar([part]) if n[0].isdigit()]
        assert numbered == sorted(numbered)

def test_quarto_config_is_one_file():
    link = ROOT/'nbs'/'_quarto.yml'
    assert link.is_symlink() and os.readlink(link) == '../_quarto.yml'


def test_the_site_is_what_readers_were_promised():
    "Search, copy buttons, a light and a dark theme, formulas without a network, contents for language models, a page for lost ones."
    q = yaml.safe_load((ROOT/'_quarto.yml').read_text())
    html = q['format']['html']
    assert q['website']['search'] and html['code-copy'] and set(html['theme']) == {'light', 'dark'}
    assert html['html-math-method'] == 'mathml' and 'llms.txt' in q['project']['resources']
    assert (ROOT/'nbs'/'404.qmd').read_text().startswith('---\ntitle: ') and (ROOT/'nbs'/html['css']).exists()

def luminance(colour):
    c = [int(colour[i:i + 2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(x/12.92 if x <= .04045 else ((x + .055)/1.055)**2.4) for w, x in zip((.2126, .7152, .0722), c))

@pytest.mark.parametrize('mode, ground', [('light', '#ffffff'), ('dark', '#222222')])
def test_links_can_be_read(mode, ground):
    "WCAG AA asks for a contrast of 4.5 : 1; the grounds are those of the themes cosmo and darkly."
    colour = re.search(r'^\$link-color: (#\w{6});', (ROOT/'nbs'/f'{mode}.scss').read_text(), re.M)[1]
    low, high = sorted(map(luminance, (colour, ground)))
    assert (high + .05)/(low + .05) >= 4.5

def test_pages_and_readme_are_cited_alike():
    "Quarto's citation block names the author, title and year of the README's BibTeX entry; the author stands in settings.ini."
    cite = yaml.safe_load((ROOT/'_quarto.yml').read_text())['citation']
    entry = dict(re.findall(r'^  (\w+) += \{(.+)\},?$', (ROOT/'README.md').read_text(encoding='utf-8'), re.M))
    plain = {k: re.sub('[{}]', '', v) for k, v in entry.items()}
    assert plain['author'] == cite['author'][0]['name']['literal'] and plain['title'] == re.sub('<[^>]+>', '', cite['container-title'])
    assert plain['year'] == str(cite['issued'])
    cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8')
    assert plain['author'] == cfg['DEFAULT']['author'] and plain['url'] == cfg['DEFAULT']['git_url']


@each_nb
def test_links(name):
    for u in links(prose(BOOK[name])):
        page, _, anchor = u.partition('#')
        assert not page or (ROOT/'nbs'/page).exists(), f'{name} links to {u}: no such file'
        if anchor.startswith('eq-'): assert anchor in labels(BOOK[page or name]), f'{name} links to {u}: no such equation'

@pytest.mark.parametrize('doc', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_documents(doc):
    for u in links((ROOT/doc).read_text(encoding='utf-8')):
        assert (ROOT/u.partition('#')[0]).exists(), f'{doc} links to {u}: no such file'


def test_names_link_to_their_definitions():
    "nbdev turns a name in backticks into a link if the installed package hands over its index of names."
    code = ('import importlib; from setuptools import setup; from distutils.core import run_setup\n'
            'name, _, where = run_setup("setup.py", stop_after="init").entry_points["nbdev"][0].partition("=")\n'
            'module, _, attr = where.partition(":")\n'
            'print(name, getattr(importlib.import_module(module), attr)["syms"]["llmrec.vectors"]["llmrec.vectors.interest_vector"][0])')
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert r.stdout.split() == ['llmrec', 'vectors.html#interest_vector'], r.stdout + r.stderr


def test_equation_labels_are_unique():
    seen = {}
    for name, nb in BOOK.items():
        for l in labels(nb): assert l not in seen, f'{l} in {name} and {seen[l]}'; seen[l] = name

@each_nb
def test_equations_referred_to_exist(name):
    for ref in re.findall(r'@(eq-[\w-]+)', prose(BOOK[name])):
        assert ref in labels(BOOK[name]), f'{name} refers to @{ref}; on another page use a link, page.ipynb#{ref}'


MACHINE = re.compile(r'/(?:home|root|Users|work|tmp|var/folders)/\w')

@each_nb
def test_notebook_is_clean(name):
    for i, c in enumerate(BOOK[name]['cells']):
        where = f'{name}, cell {i}'
        assert not c['metadata'], f'{where}: metadata {c["metadata"]}: run nbdev_clean'
        if c['cell_type'] != 'code': continue
        assert c['execution_count'] is None, f'{where}: execution count: run nbdev_clean'
        for o in c['outputs']:
            assert o['output_type'] != 'error', f'{where}: a stored error'
            assert o.get('name') != 'stderr', f'{where}: text on the error stream is stored'
            shown = text(o.get('text', '')) + ''.join(text(v) for k, v in o.get('data', {}).items() if k.startswith('text'))
            assert not MACHINE.search(shown), f'{where}: a path of one machine: {MACHINE.search(shown)}'

@each_nb
def test_chapter_opens_as_all_do(name):
    "Title and subtitle, the module's name, headings and imports in cells of their own."
    nb = BOOK[name]
    assert re.match(r'# .+\n+> .+', text(nb['cells'][0]['source'])), f'{name}: first cell must be "# Title" and "> subtitle"'
    if '#| export' in ''.join(cells(nb, 'code')): assert re.search(r'#\| default_exp ' + name[3:-6], ''.join(cells(nb, 'code')))
    for c in cells(nb, 'markdown')[1:]:
        if c.startswith('#'): assert len(c.strip().splitlines()) == 1, f'{name}: heading {c.splitlines()[0]!r} shares its cell'


@pytest.mark.parametrize('name', [n for n in BOOK if n[0].isdigit() and not n.startswith('9')])
def test_chapter_ends_as_all_do(name):
    "The flow chart at its head; summary, exercises with folded solutions and a link to the next page at its end."
    md = cells(BOOK[name], 'markdown')
    assert any('[Flow chart](24_pipeline.ipynb): ' in m or '\nFlow chart: ' in m for m in md[:4]), f'{name}: no place in the flow chart'
    heads = [m.strip() for m in md if re.match('## ', m)]
    assert heads[-2:] == ['## Summary', '## Exercises'], heads[-3:]
    summary, end = md[md.index(next(m for m in md if m.strip() == '## Summary')) + 1], '\n'.join(md[-3:])
    assert re.search(r'^- ', summary, re.M) and '<details>' in end and '<summary>Solutions</summary>' in end
    assert re.search(r'(Next:|Back to) .*\]\(\w+\.ipynb\)', md[-1]), md[-1][-200:]
    asked, solved = (len(re.findall(r'^\d+\. ', part, re.M)) for part in end.split('<details>'))
    assert asked == solved, f'{name}: {asked} exercises, {solved} solutions'

@each_nb
def test_imports_stand_alone(name):
    "nbdev runs every cell with an import when it builds the site, and nothing that the cell would need."
    if not re.search(r'^#\| default_exp', '\n'.join(cells(BOOK[name], 'code')), re.M): return
    imports = (ast.Import, ast.ImportFrom)
    for c in cells(BOOK[name], 'code'):
        if re.search(r'^#\| (export|hide$)', c, re.M) or 'import' not in c or re.search(r'^ *[!%]', c, re.M): continue
        tree = ast.parse(c)
        if all(isinstance(n, imports) or ast.unparse(n).startswith('logging.') for n in tree.body): continue
        assert not any(isinstance(n, imports) for n in ast.walk(tree)), f'{name}: imports need a cell of their own:\n{c[:200]}'

@pytest.mark.parametrize('name', BOOK)
def test_lines_of_code_fit_the_page(name):
    wide = [l for c in cells(BOOK[name], 'code') for l in c.splitlines() if len(l) > 120 and not l.startswith('#| fig-alt')]
    assert not wide, f'{name}: {len(wide)} lines of more than 120 characters, such as {wide[0]!r}'

@each_nb
def test_the_page_shows_the_source_of_what_it_exports(name):
    "`#| export` leaves a signature on the page, `#| exports` the source below it; only helpers that no lesson uses may stay hidden."
    code = cells(BOOK[name], 'code')
    lessons = [ast.parse(re.sub(r'^[!%].*', 'pass', c, flags=re.M)) for c in code if not c.startswith('#| export')]
    used = {getattr(n, 'id', getattr(n, 'attr', '')) for t in lessons for n in ast.walk(t) if isinstance(n, (ast.Name, ast.Attribute))}
    for c in code:
        if not re.match(r'#\| export\s', c): continue
        names = [n.name for n in ast.parse(c).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        shown = [n for n in names if not n.startswith('_') or n in used and not n.startswith('__')]
        assert not shown, f'{name}: {shown}: use #| exports'

@each_nb
def test_figures_have_alternative_texts(name):
    for c in BOOK[name]['cells']:
        if any('image/png' in o.get('data', {}) for o in c.get('outputs', [])):
            assert re.search(r'^#\| fig-alt: .', text(c['source']), re.M), f'{name}: a figure without #| fig-alt: {text(c["source"])[:200]}'

def test_exported_code_is_in_sync(tmp_path):
    for n in ('nbs', 'llmrec'): shutil.copytree(ROOT/n, tmp_path/n, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    for n in ('settings.ini', '_quarto.yml'): shutil.copy(ROOT/n, tmp_path)
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    run = 'from nbdev.doclinks import nbdev_export; nbdev_export()'
    subprocess.run([sys.executable, '-c', run], cwd=tmp_path, env=env, check=True, capture_output=True)
    names = sorted({p.name for d in (ROOT, tmp_path) for p in (d/'llmrec').glob('*.py')})
    _, differ, missing = filecmp.cmpfiles(ROOT/'llmrec', tmp_path/'llmrec', names, shallow=False)
    assert not differ and not missing, f'run nbdev_export: {differ + missing} differ from the chapters'

def test_readme_is_the_index():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme(ROOT/'nbs'/'index.ipynb'), 'run  python tests/readme.py'

def test_llms_txt_is_the_sidebar():
    assert (ROOT/'nbs'/'llms.txt').read_text(encoding='utf-8') == llms(), 'run  python tests/llms.py'

def test_the_map_lists_every_chapter():
    listed = links(''.join(cells(BOOK['index.ipynb'], 'markdown')))
    assert not set(BOOK) - set(listed) - {'index.ipynb'}

def test_the_two_commands():
    for c in COMMANDS: assert c in (ROOT/'README.md').read_text(encoding='utf-8')
    assert COMMANDS[1] in (ROOT/'.ci'/'run').read_text()

def test_requirements_are_pinned():
    "Every direct requirement that can decide a result has an exact pin."
    cfg = ConfigParser(delimiters=['=']); cfg.read(ROOT/'settings.ini', encoding='utf-8')
    wanted = {re.match(r'[\w-]+', r)[0] for k, v in cfg['DEFAULT'].items() if k.endswith('requirements') for r in v.split()}
    pinned = set(re.findall(r'^([\w-]+)==', (ROOT/'constraints.txt').read_text(), re.M))
    assert not wanted - pinned

def test_contributing_is_short():
    t = re.sub(f'{START}.*?{END}', '', (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.S)
    assert len(t.splitlines()) <= 48

def test_the_figure_is_drawn_from_the_imports():
    t = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert t == contributing() and '| fusion | ' in t, 'run  python tests/architecture.py'


def test_controls_are_shown_where_somebody_can_turn_them(monkeypatch):
    import IPython.display
    from llmrec.core import interactive
    shown, seen = [], []
    def f(lam=.6, wish='tea'): seen.append((lam, wish))
    monkeypatch.setattr(IPython.display, 'display', shown.append)
    for k in [k for k in os.environ if k.startswith(('VSCODE_', 'COLAB_', 'JPY_'))]: monkeypatch.delenv(k)
    interactive(f, lam=(0, 2, .1))
    assert shown == [None] and seen.pop() == (.6, 'tea')
    monkeypatch.setenv('JPY_SESSION_NAME', 'chapter.ipynb')
    interactive(f, lam=(0, 2, .1))
    slider, text = shown[-1].kwargs_widgets
    slider.value, text.value = 1.5, 'coffee'
    assert (slider.max, slider.step) == (2, .1) and not text.continuous_update
    assert seen == [(.6, 'tea'), (1.5, 'tea'), (1.5, 'coffee')]

@each_nb
def test_no_control_is_stored(name):
    "A stored control would be dead; `play` shows pages the result instead."
    nb = BOOK[name]
    assert 'widgets' not in nb['metadata'], f'{name}: the state of controls is stored: run it with tests/refresh.py, or outside of JupyterLab'
    assert not any('widget-view' in k for c in nb['cells'] for o in c.get('outputs', []) for k in o.get('data', {})), name
