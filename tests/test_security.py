"""Hostile data and files: no pickle, no foreign code, inert titles in every page and table, private files."""
import ast, csv, hashlib, importlib, inspect, json, os, pickle, pkgutil, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
import numpy as np, pandas as pd, pytest
import llmrec
from llmrec.core import InputError
from llmrec.data import Domain, DomainPair, make_synthetic_pair
from llmrec.readers import read_table
from llmrec.recommender import Recommender

ROOT = Path(__file__).resolve().parents[1]
MODULES = {m.name: importlib.import_module(f'llmrec.{m.name}') for m in pkgutil.iter_modules(llmrec.__path__) if not m.name.startswith('_')}

# Source of the package
BANNED = {'pickle', 'cPickle', 'dill', 'joblib', 'shelve', 'marshal', 'cloudpickle', 'subprocess', 'urllib.request', 'requests', 'socket', 'ctypes'}

ASKS_THE_HUB = {'model_files': {'socket', 'urllib.request'}}     # does it answer, and is there a proxy? Nothing is read

def names(node):
    return [a.name for a in node.names] + ([node.module] if isinstance(node, ast.ImportFrom) and node.module else [])

@pytest.mark.parametrize('path', sorted((ROOT/'llmrec').glob('*.py')), ids=lambda p: p.stem)
def test_nothing_in_the_source_runs_what_data_say(path):
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        where = f'{path.name}:{getattr(n, "lineno", "?")}'
        if isinstance(n, (ast.Import, ast.ImportFrom)): assert not (BANNED - ASKS_THE_HUB.get(path.stem, set())) & set(names(n)), f'{where} imports {names(n)}'
        if not isinstance(n, ast.Call): continue
        call, kw = ast.unparse(n.func), {k.arg: ast.unparse(k.value) for k in n.keywords}
        assert call not in ('eval', 'exec', 'compile', 'os.system', 'os.popen', 'torch.load', 'pd.read_pickle', 'yaml.load'), f'{where}: {call}'
        assert kw.get('allow_pickle', 'False') == 'False' and kw.get('trust_remote_code', 'False') == 'False', f'{where}: {kw}'
        if re.search(r'Auto\w+\.from_pretrained$', call): assert 'trust_remote_code' in kw or '**' in ast.unparse(n), f'{where}: may ask whether to run foreign code'
        if call in ('np.load', 'numpy.load'): assert kw.get('allow_pickle', 'False') == 'False', where
        if call.endswith('.from_pretrained') and 'AutoModel.' in call: assert kw.get('use_safetensors') == 'True' or 'gguf_file' in ast.unparse(n) or '**' in ast.unparse(n), f'{where}: may open a pickle'

# Pickles and crafted files at every door
class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, 'w')

@pytest.fixture(scope='module')
def rec():
    from llmrec.baselines import Content, Popularity
    return Recommender('tfidf', experts=lambda *a: [Popularity(), Content()]).fit(make_synthetic_pair(0, n_users=(20, 20), n_items=(20, 20), n_rows=(4, 4)).target)

DOORS = {
    'log.csv': lambda p, m: read_table(p, pd.DataFrame(dict(item=['a'], title=['b']))),
    'log.parquet': lambda p, m: read_table(p, pd.DataFrame(dict(item=['a'], title=['b']))),
    'reviews.jsonl': lambda p, m: MODULES['readers'].read_amazon(p, p),
    'model.json': lambda p, m: (shutil.copy(p, m/'model.json'), Recommender.load(m)),
    'model.safetensors': lambda p, m: (shutil.copy(p, next(m.glob('*.safetensors'))), Recommender.load(m)),
    'state.safetensors': lambda p, m: MODULES['learner'].load_state(p),
    'report.json': lambda p, m: MODULES['evaluation'].Report.from_json(p),
    'tfidf.json': lambda p, m: MODULES['encode'].TextEncoder(p.parent),
    'model.gguf': lambda p, m: MODULES['encode'].TextEncoder(p),
}

@pytest.mark.parametrize('name', DOORS)
def test_a_pickle_is_refused_at_every_door(name, rec, tmp_path, monkeypatch):
    monkeypatch.setenv('LLMREC_CACHE', str(tmp_path/'cache'))
    rec.save(tmp_path/'m'); (tmp_path/'in').mkdir()
    (tmp_path/'in'/name).write_bytes(pickle.dumps(Evil(str(tmp_path/'ran'))))
    with pytest.raises((InputError, FileNotFoundError, ImportError)): DOORS[name](tmp_path/'in'/name, tmp_path/'m')
    assert not (tmp_path/'ran').exists()
    pickle.loads((tmp_path/'in'/name).read_bytes()).close(); assert (tmp_path/'ran').exists()      # the pickle would have worked

def crafted(model, **changes):
    "A model whose meta data were changed by somebody who knows how the checksum is made."
    meta = json.loads((model/'model.json').read_text()); meta.pop('check')
    meta |= changes
    meta['check'] = hashlib.sha256(json.dumps(meta).encode()).hexdigest()
    (model/'model.json').write_text(json.dumps(meta))

CRAFTED = [dict(sha256='../../../../etc/passwd'), dict(sha256=None), dict(items=[]), dict(items=[['a']]), dict(users=['one']), dict(table={'title': []}),
           dict(format=1), dict(params=dict(encoder='saved', strategy='magic')), dict(params=dict(fly=1)), dict(params=7), dict(experts=[]), dict(experts=[dict(type='Path', params={}, values={})]),
           dict(experts='Path'), dict(encoder=7), dict(encoder=dict(folder='encoder-000000000000', state={}))]

@pytest.mark.parametrize('changes', CRAFTED, ids=str)
def test_a_crafted_model_is_refused(changes, rec, tmp_path):
    rec.save(tmp_path/'m'); crafted(tmp_path/'m', **changes)
    with pytest.raises(InputError): Recommender.load(tmp_path/'m').recommend_from_text('tea', 2)

@pytest.mark.parametrize('where', ['../elsewhere', 'absolute'])
def test_no_encoder_is_read_from_outside_of_the_folder(where, rec, tmp_path):
    "Although the encoder that lies there is the right one."
    rec.save(tmp_path/'m')
    encoder = json.loads((tmp_path/'m'/'model.json').read_text())['encoder']
    shutil.copytree(tmp_path/'m'/encoder['folder'], tmp_path/'elsewhere')
    crafted(tmp_path/'m', encoder=encoder | dict(folder=str(tmp_path/'elsewhere') if where == 'absolute' else where))
    with pytest.raises(InputError): Recommender.load(tmp_path/'m')

# Hostile titles
SCRIPT = "document.documentElement.dataset.hacked=1"
TITLES = [f'<script>{SCRIPT}</script>', f'<img src=x onerror="{SCRIPT}">', f'<a href="javascript:{SCRIPT}" id=x>click</a>', f'<svg onload="{SCRIPT}">',
          f'"><body onload="{SCRIPT}" onmouseover="{SCRIPT}">', f"' onmouseover='{SCRIPT}' x='", f'</td></table><iframe srcdoc="<script>parent.{SCRIPT}</script>">',
          f'</title></style><script>{SCRIPT}</script>', f'<details open ontoggle="{SCRIPT}">', f'[click](javascript:{SCRIPT})', f'```mermaid\ngraph TD; A-->B; click A "javascript:{SCRIPT}"\n```',
          r'$\href{javascript:alert(1)}{x}$', '&lt;script&gt;', '\x1b]0;owned\x07', '=HYPERLINK("http://example.org")', '<style>*{display:none}</style>', '<meta http-equiv=refresh content="0;url=x">',
          '<base href="//example.org">', '<form action="javascript:1"><button>x', '{{7*7}}']

@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    "A run over a world in which every text and id is hostile, and everything that shows itself as HTML."
    from llmrec import pipeline
    out = tmp_path_factory.mktemp('hostile')
    p = make_synthetic_pair(0, n_users=(40, 40), n_items=(40, 40), n_rows=(8, 8))
    def spoil(d, name):
        bad = [TITLES[i % len(TITLES)] for i in range(len(d.items))]
        new = {x: f'{b} {i}' for i, (x, b) in enumerate(zip(d.items['item'], bad))}
        items = d.items.assign(item=d.items['item'].map(new), title=bad, text=bad, category=bad, brand=bad, kind=bad)
        user = {u: f'{TITLES[i % len(TITLES)]} {i}' for i, u in enumerate(d.users)}
        return Domain(name, d.log.assign(item=d.log['item'].map(new), user=d.log['user'].map(user), event=bad[0]), items)
    pair = DomainPair(spoil(p.source, TITLES[0]), spoil(p.target, TITLES[1]))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(pipeline, 'branch_experts', lambda *a: few)
        run = pipeline.run_pipeline(pair, pipeline.Options(encoder='tfidf'), out, quiet=True)
    rec = Recommender.load(out/'model')
    user, item = rec.data.users[0], rec.items[1]
    shown = [pair, pair.source, pipeline.prepare_data(pair)[1], rec, run, run.verdict, *run.reports.values(), MODULES['evaluation'].compare(run.reports), rec.explain(user, item), rec.to_table(users=[user]), rec.similar(item), rec.summary()]
    return out, [x._repr_html_() for x in shown if hasattr(x, '_repr_html_')]

def few(d, budget, seed):
    from llmrec.baselines import Content, Popularity
    from llmrec.closed_form import EASE
    return [Popularity(), EASE(100.)] + ([Content()] if d.vectors is not None else [])

ALLOWED = set('html head meta title style body h1 h2 p table thead tbody tr th td img div small br span caption strong b'.split())

class Tags(HTMLParser):
    "Every tag and attribute of a page."
    def __init__(self, text): super().__init__(); self.found = []; self.feed(text); self.close()
    def handle_starttag(self, tag, attrs): self.found.append((tag, attrs))

def test_pages_hold_no_tag_of_the_data(hostile):
    out, shown = hostile
    page = (out/'report.html').read_text(encoding='utf-8')
    assert len(shown) >= 8 and 'script&gt;' in page and 'Content-Security-Policy' in page
    for text in [page, *shown]:
        for tag, attrs in Tags(re.sub(r'<style[^>]*>[^<]*</style>', '', text)).found:
            assert tag in ALLOWED and not any(k.startswith('on') or k in ('href', 'srcdoc', 'action', 'formaction') for k, v in attrs), (tag, attrs)
            if tag == 'img': assert dict(attrs)['src'].startswith('data:image/png;base64,')

def test_only_html_is_offered_to_notebooks():
    "Nothing shows itself as Markdown, LaTeX, JavaScript or SVG, in which titles would have to be made inert another way."
    for m in MODULES.values():
        for _, c in inspect.getmembers(m, inspect.isclass):
            if c.__module__.startswith('llmrec'):
                assert not [r for r in ('markdown', 'latex', 'javascript', 'svg', 'mimebundle_') if hasattr(c, f'_repr_{r}_')], c

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
TOUCH = """<script>setTimeout(() => { document.querySelectorAll('*').forEach(e => {
  for (const n of ['click', 'mouseover', 'mouseenter', 'focus', 'toggle', 'error', 'load', 'submit']) e.dispatchEvent(new Event(n));
  if (e.tagName == 'A' || e.tagName == 'BUTTON') e.click(); }) }, 200)</script>"""

def hacked(page, folder):
    "Does the page run anything of the data when a browser opens it, and everything in it is clicked?"
    f = folder/'page.html'; f.write_text(page + TOUCH, encoding='utf-8')
    for i in range(3):       # a browser that does not start, or shows nothing, on a busy machine says nothing about the page
        r = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', f'--user-data-dir={folder/f"profile{i}"}',
                            '--virtual-time-budget=3000', '--dump-dom', f.as_uri()], capture_output=True, text=True, timeout=280)
        if '<body' in r.stdout: break
    assert '<body' in r.stdout, r.stderr[-2000:]
    return bool(re.search(r'<html[^>]*data-hacked', r.stdout))

@pytest.mark.skipif(CHROMIUM is None, reason='no chromium here')
def test_a_real_browser_runs_nothing(hostile, tmp_path):
    "With scripts allowed, so that escaping alone must do; and the same titles unescaped do run, so the test can fail."
    out, shown = hostile
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', '', (out/'report.html').read_text(encoding='utf-8'))
    head = '<!doctype html><html><head></head><body>'
    assert not hacked(page, tmp_path) and not hacked(head + ''.join(shown), tmp_path)
    for t in TITLES[:4]: assert hacked(head + t, tmp_path), f'{t} should have run'

def test_tables_hold_no_formula_and_terminals_no_escape(hostile, capsys):
    out, _ = hostile
    with open(out/'recommendations.csv', newline='', encoding='utf-8') as f: rows = list(csv.reader(f))
    assert len(rows) > 100 and any("'=HYPERLINK" in c for r in rows for c in r)
    assert not [c for r in rows[1:] for c in (r[0], r[2], r[3]) if re.match(r'[\s]*[=+\-@＝＋－＠]', c)]
    from llmrec.cli import main
    user = pd.read_csv(out/'recommendations.csv')['user'].iloc[0]
    capsys.readouterr()
    assert main(['recommend', '--model', str(out/'model'), '--k', '40', f'--user={user}']) == 0
    said = capsys.readouterr()
    assert '\x1b' not in said.out + said.err and 'owned' in said.out

# What is installed
def test_the_lock_holds_what_is_asked_for():
    "Every requirement of the core and the tutorial, in the version of constraints.txt, every file by its hash; else: bash .ci/lock."
    from configparser import ConfigParser
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as canon
    root = Path(__file__).resolve().parents[1]
    c = ConfigParser(delimiters=['=']); c.read(root/'settings.ini', encoding='utf-8'); c = c['DEFAULT']
    blocks = re.split(r'\n(?=\S)', (root/'.ci'/'requirements.lock').read_text().strip())
    assert all(re.search(r'--hash=sha256:[0-9a-f]{64}\b', b) for b in blocks) and '://' not in '\n'.join(blocks)
    locked = {}
    for r in (Requirement(re.split(r'\s*\\?\n', b)[0].removesuffix('\\').strip()) for b in blocks):
        locked.setdefault(canon(r.name), set()).add(str(r.specifier))
    pins = [Requirement(l) for l in (root/'constraints.txt').read_text().splitlines() if l and not l.startswith('#')]
    for r in map(Requirement, (c['requirements'] + ' ' + c['tutorial_requirements']).split()): assert locked.get(canon(r.name)), f'{r} is not locked'
    for r in pins: assert canon(r.name) not in locked or str(r.specifier) in locked[canon(r.name)], f'{r}, locked is {locked[canon(r.name)]}'

# Who may read what we write
@pytest.mark.skipif(os.name != 'posix', reason='modes are of POSIX')
def test_files_are_private(hostile, rec, tmp_path, monkeypatch):
    "Cache, model, results: for this user only, whatever the umask allows."
    monkeypatch.setenv('LLMREC_CACHE', str(tmp_path/'cache'))
    from llmrec import core, embedding_cache, learner, pipeline
    old = os.umask(0)
    try:
        rec.save(tmp_path/'model'); rec.encoder.save(tmp_path/'tfidf')
        embedding_cache.EmbeddingCache(core.cache_dir('vectors')/'x', 4).write(embedding_cache.hash_texts(['a']), np.ones((1, 4), 'f4'))
        learner.save_state(tmp_path/'c.safetensors', dict(a=1)); (tmp_path/'c.safetensors').chmod(0o600 & (tmp_path/'c.safetensors').stat().st_mode)
        pipeline.ResultCache(tmp_path/'state', 'k').put('a', 'b')
    finally: os.umask(old)
    for root in (tmp_path, hostile[0]):
        for p in root.rglob('*'): assert not p.stat().st_mode & 0o077, f'{p}: {p.stat().st_mode:o}'
