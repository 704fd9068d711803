"""The site, as far as it can be tested without Quarto: its configuration, the chapters as nbdev hands them to Quarto, the pages that
are generated, and on fragments of rendered pages the two scripts that mend and check them in the workflow."""
import ast, functools, importlib.util, io, json, os, re, tokenize, warnings
from pathlib import Path
import pytest, yaml
import pages
from architecture import files
from llms import ROOT, chapter, entries, llms, stem

NBS = sorted(p.name for p in (ROOT/'nbs').glob('*.ipynb'))
QUARTO = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
each_nb = pytest.mark.parametrize('name', NBS)

def script(name):
    "One of the scripts of .github, as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT/'.github'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

post, site, folds = script('post_render'), script('check_site'), script('one_fold')
def text(x): return x if isinstance(x, str) else ''.join(x)

@functools.cache
def cells(name): return json.loads((ROOT/'nbs'/name).read_text(encoding='utf-8'))['cells']


# Chapters as nbdev hands them to Quarto
@functools.cache
def processed(name):
    "(Markdown that a reader will see, warnings) of a chapter after nbdev's own processors."
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults
    before = dict(os.environ)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        os.environ['IN_TEST'] = '1'
        try:
            nb = read_nb(ROOT/'nbs'/name)
            FilterDefaults()(nb)
        finally:
            os.environ.clear()
            os.environ.update(before)
    out = [text(c['source'] or '') for c in nb.cells if c['cell_type'] == 'markdown']
    out += [text(o['data'].get('text/markdown', '')) for c in nb.cells for o in c.get('outputs', []) if 'data' in o]
    return '\n\n'.join(out), [str(w.message) for w in caught]

@each_nb
def test_nbdev_builds_the_page(name):
    "Names in signatures are known, cells with imports hold nothing else; what nbdev warns about stops the workflow."
    _, said = processed(name)
    assert not [w for w in said if 'imports and other code' in w]

def nested(md): return re.findall(r'\[[^\[\]\n]*\[`[^`\n]+`\]\([^)\n]*\)[^\]\n]*\]\([^)\n]*\)', md)
def linked_code(md): return [l for block in re.findall(r'^```.*?^```', md, re.S | re.M) for l in block.splitlines() if re.search(r'\[`[^`]+`\]\(http', l)]

def test_what_counts_as_a_raw_link():
    "The two defects, as nbdev makes them."
    assert nested('see [[`evaluate`](https://a/m.html#evaluate)](04.ipynb) and [[`A`](u), [`B`](v) here](w)')
    assert not nested('see [`evaluate`](https://a/m.html#evaluate), [the formula](04.ipynb) and `x[[0]](1)`')
    assert linked_code('```python\ndef f(\n    x, # as [`g`](https://a#g)\n)\n```') and not linked_code('[`g`](https://a#g)\n\n```python\nx[0]\n```')

@each_nb
def test_no_link_inside_a_link(name):
    "A name in backticks becomes a link: inside another link, or in a comment of a parameter, a reader sees Markdown."
    md, _ = processed(name)
    assert not nested(md), 'write the bare name in backticks, or other words as the text of the link'
    assert not linked_code(md), 'no backticks around names in comments of parameters'

@each_nb
def test_no_link_to_a_private_name(name):
    assert not re.findall(r'\.html#_\w+', processed(name)[0]), 'it has no section to link to: leave its backticks out'

@each_nb
def test_no_parameter_has_the_type_none(name):
    assert 'NoneType' not in processed(name)[0]


# Signatures
def signatures(source):
    "(name, line, comment, what is wrong with it) of public functions whose signature closes beside a parameter with a comment."
    notes = {t.start[0]: t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    tree = ast.parse(source)
    hidden = {id(f) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name.startswith('_') for f in ast.walk(c)}
    for f in ast.walk(tree):
        if not isinstance(f, ast.FunctionDef) or f.returns is None or id(f) in hidden: continue
        if f.name.startswith('_') and not f.name.startswith('__'): continue
        a, line = f.args, f.returns.end_lineno
        parts = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg, *a.defaults, *a.kw_defaults))]
        if line not in notes or not parts or max(p.end_lineno for p in parts) < f.returns.lineno: continue
        nothing = ast.unparse(f.returns) == 'None'
        mixed = '->' in notes[line]
        apart = any(n in notes for n in range(f.lineno, line))
        if nothing or mixed or apart:
            yield f.name, line, notes[line], 'returns nothing' if nothing else 'says both' if mixed else 'other parameters have their own'

def test_which_signatures_are_wrong():
    bad = ('def f(a:int)->None: # Places\n    pass\n', 'def f(a:int, b:int)->int: # (n,) -> (m,)\n    pass\n',
           'def f(a:int, # One\n      b:int=0)->int: # Two\n    pass\n')
    for source in bad: assert list(signatures(source)), source
    good = ('def f(a:int)->int: # The sum\n    pass\n', 'def f(a:int, # One\n      b:int=0 # Two\n     )->int: # The sum\n    pass\n',
            'def f(a:int)->None: pass # nothing here\n\ndef _g(a:int)->None: # hidden\n    pass\n')
    for source in good[:2]: assert not list(signatures(source)), source
    assert [s[0] for s in signatures(good[2])] in ([], ['f'])

@pytest.mark.parametrize('module', files())
def test_comments_stand_beside_their_parameter(module):
    "The site shows a comment on the line that closes a signature as what the function returns."
    bad = [f'{module}.py:{line} {name} {note} ({why})' for name, line, note, why in signatures(files()[module].read_text(encoding='utf-8'))]
    assert not bad, 'the last parameter and its comment need a line of their own, the closing parenthesis stands below'

@pytest.mark.parametrize('module', files())
def test_code_in_docstrings_ends_on_its_line(module):
    "nbdev sets each line of a docstring in italics: code over two lines leaves stars and backticks on the page."
    tree = ast.parse(files()[module].read_text(encoding='utf-8'))
    docs = [(n.name, ast.get_docstring(n) or '') for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert not [(name, line) for name, doc in docs for line in doc.splitlines() if line.count('`') % 2]


# What chapters look like
@each_nb
def test_tables_have_columns_as_wide_as_their_content(name):
    "Pandoc reads the widths of a table with long lines off its dashes: with three each, a letter gets a third of the page."
    for c in cells(name):
        if c['cell_type'] == 'markdown': assert pages.evened(text(c['source'])) == text(c['source']), 'run  python tests/pages.py'

def test_widths_of_a_table():
    wide = '| letter | meaning |\n|---|---|\n| $x$ | ' + 'many words '*8 + '|\n'
    first, second = map(len, pages.evened(wide).split('\n')[1].strip('|').split('|'))
    assert second > 3*first and pages.evened(pages.evened(wide)) == pages.evened(wide)
    narrow = '| a | b |\n|---|---|\n| 1 | 2 |\n'
    assert pages.evened(narrow) == narrow and pages.evened(f'```\n{wide}```') == f'```\n{wide}```'

@each_nb
def test_pictures_of_the_prose_have_alternative_texts(name):
    "Pandoc gives a picture with a caption none but `fig-alt`; a percent sign in one breaks the card that other sites show."
    for c in cells(name):
        for m in re.finditer(r'^!\[[^\]]*\]\([^)]*\)(.*)$', text(c['source']), re.M) if c['cell_type'] == 'markdown' else ():
            assert re.match(r'\{.*fig-alt="[^"%]+".*\}', m[1]), m[0]
        alt = re.search(r'^#\| fig-alt: (.*)', text(c['source']), re.M)
        assert not alt or '%' not in alt[1], f'write "95-percent" in {alt[0][:80]}'

@each_nb
def test_figures_have_no_label(name):
    "A label makes a figure that the pages for language models lose, caption and all."
    assert not [c['id'] for c in cells(name) if re.search(r'^#\| label: ', text(c['source']), re.M)]

@each_nb
def test_printed_lines_fit_or_wrap(name):
    "Sentences wrap (post_render.py marks them); a printed table may be scrolled, but not for ever."
    for c in cells(name):
        for o in c.get('outputs', []):
            printed = text(o.get('text', ''))
            if max(map(len, printed.split('\n'))) > 160: assert post.is_prose(printed), f'{c["id"]}: {printed[:80]}'

CODE = re.compile(r'```.*?```|`[^`\n]*`', re.S)

@each_nb
def test_citations_lead_to_the_references(name):
    "Every paper that a chapter names with a year is on the page of references, and linked."
    known = {(form, p['year']) for p in pages.papers().values() for form in pages.cite_forms(p)}
    for c in cells(name):
        source = text(c['source'])
        prose = CODE.sub('', source) if c['cell_type'] == 'markdown' else '\n'.join(
            ast.get_docstring(n) or '' for n in ast.walk(ast.parse(re.sub(r'^[!%].*', 'pass', source, flags=re.M)))
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
        missing = [f for f in pages.citations(prose) if f not in known]
        assert not missing, f'{missing}: add it to nbs/references.bib, with the year that it has there'
        if c['cell_type'] == 'markdown': assert pages.link(source) == source, 'run  python tests/pages.py'
        for key in re.findall(r'references\.qmd#(\w+)', source): assert key in pages.papers(), key

def test_references_are_whole():
    "Authors, title, where, year and a link for each; a key is found once, no two have the same name in the text."
    bib = (ROOT/'nbs'/'references.bib').read_text(encoding='utf-8')
    found = pages.papers()
    assert len(re.findall(r'^@', bib, re.M)) == len(found)
    for key, p in found.items():
        assert set(p) - {'name'} == {'author', 'title', 'venue', 'year', 'url'}, key
        assert re.fullmatch(r'https://\S+', p['url']) and re.fullmatch(r'\d{4}', p['year']) and re.fullmatch(r'[a-z]+\d{4}', key), key
    forms = [(form, p['year']) for p in found.values() for form in pages.cite_forms(p)]
    assert len(forms) == len(set(forms))

def test_how_citations_are_read():
    cite = lambda s: [key for _, _, key in pages.cited(s)]
    assert cite('(Sun and Saenko, 2016), not Sun et al. (2016)') == ['sunsaenko2016', 'sun2016']
    assert cite('EASE (Steck, *Embarrassingly Shallow*, 2019)') == ['steck2019'] and not cite('Steck, 2017')
    assert pages.link('(Steck, 2018), Shapley (1953).') == '([Steck, 2018](references.qmd#steck2018)), [Shapley (1953)](references.qmd#shapley1953).'
    linked = pages.link('as Efron, 1987, says')
    assert pages.link(linked) == linked and pages.link('`Efron, 1987`') == '`Efron, 1987`'
    assert pages.citations('Nobody et al., 1901; Toy Story (1995); in May and June 2013') == [('Nobody et al.', '1901')]


# Generated pages
@pytest.mark.parametrize('path', pages.pages(), ids=lambda p: p.name)
def test_generated_pages_are_fresh(path):
    assert path.read_text(encoding='utf-8') == pages.pages()[path](), 'run  python tests/pages.py'

def test_every_public_name_is_listed_and_summed_up():
    "Every name of nbdev's index that is public, with a line on it, on the page and in the list."
    listed = {f'{m}.{n}': doc for m, _, names in pages.modules() for n, _, doc, _ in names}
    index = {home.split('.', 1)[1] for names in pages.modidx().values() for home in names}
    wanted = {n for n in index if pages.public(n.split('.', 1)[1])}
    assert not wanted - set(listed)
    assert not [n for n, doc in listed.items() if not doc], 'a docstring for each public name'
    page, plain = pages.api(), pages.apilist()
    for name in listed: assert f'[{name.split(".", 1)[1]}](' in page and f' {name.split(".", 1)[1]}(' in plain

def test_links_of_the_interface_lead_somewhere():
    "A name's address is the section that nbdev writes for it: a def, a class, a patched method."
    own = {(m, n.lower()) for m, _, names in pages.modules() for n, _, _, section in names if section}
    for module, anchor in re.findall(r'\]\((\w+)\.html#([\w.]+)\)', pages.api()): assert (module, anchor) in own, (module, anchor)

def test_language_models_get_markdown():
    "llms.txt leads to Markdown pages and to the list of names."
    links = re.findall(r'\]\((\S+)\)', llms())
    assert all(u.endswith(('.html.md', '/apilist.txt')) for u in links)
    assert {stem(p) for _, ps in entries() for p in ps} == {u.rpartition('/')[2][:-8] for u in links if u.endswith('.html.md')}


# Configuration
def test_sidebar_shows_the_numbers_that_the_text_uses():
    "And the title; the page for lost ones and the start are no chapters."
    def walk(node):
        for n in node: yield from walk(n['contents']) if 'contents' in n else [n]
    for n in walk(QUARTO['website']['sidebar']['contents']):
        assert isinstance(n, dict), f'{n}: run  python tests/pages.py'
        if n['href'][0].isdigit(): assert n['text'] == f'{n["href"][:2]} {chapter(n["href"])[0]}'
    titles = [s['section'] for s in QUARTO['website']['sidebar']['contents'] if 'section' in s]
    assert not set(titles) & {chapter(p)[0] for _, ps in entries() for p in ps}, 'a section and its page need two names'

def test_what_a_reader_looks_for():
    "Repository, notebook of the page, all code hidden or shown, a favicon, the changes, pages for language models."
    web, html = QUARTO['website'], QUARTO['format']['html']
    [tool] = web['sidebar']['tools']
    assert tool['icon'] == 'github' and tool['href'] == 'https://github.com/llmrec/llmrec'
    assert web['repo-actions'] == ['source', 'issue'] and web['repo-subdir'] == 'nbs'
    assert html['code-tools'] == {'source': False, 'toggle': True} and (ROOT/'nbs'/web['favicon']).exists()
    assert 'keep-md' not in html and 'tex_math_dollars' in QUARTO['format']['commonmark']['variant']
    assert {'api.qmd', 'references.qmd', 'changes.qmd'} <= {p for _, ps in entries() for p in ps}
    for name in QUARTO['project']['resources']: assert (ROOT/'nbs'/name).exists(), name
    [step] = QUARTO['project']['post-render']
    assert (ROOT/'nbs'/step).resolve() == ROOT/'.github'/'post_render.py'

def test_nothing_is_asked_of_other_hosts():
    "Themes without web fonts, formulas without a script, styles and icons of our own."
    for name in ('light.scss', 'dark.scss'): assert '$web-font-path: false;' in (ROOT/'nbs'/name).read_text()
    assert QUARTO['format']['html']['html-math-method'] == 'mathml'
    own = [ROOT/'nbs'/n for n in ('styles.css', 'light.scss', 'dark.scss')]
    assert not [p.name for p in own if re.search(r'https?:|@import|//\w', re.sub(r'//\s.*', '', p.read_text()))]
    for name in NBS:
        shown = [text(o.get('data', {}).get('text/html', '')) for c in cells(name) for o in c.get('outputs', [])]
        assert not [h for h in shown if re.search(r'(?:src|href)="https?:|@import|url\(["\']?http', h)], name

def css(selector):
    "Declarations of the rules whose selector contains some words."
    sheet = re.sub(r'/\*.*?\*/', '', (ROOT/'nbs'/'styles.css').read_text(), flags=re.S)
    return ' '.join(body for head, body in re.findall(r'([^{}]+)\{([^{}]*)\}', sheet) if selector in head)

def test_styles_hold_what_was_mended():
    "One line for each defect of the review that is a rule of styles.css."
    phone = (ROOT/'nbs'/'styles.css').read_text().partition('@media (max-width: 576px)')[2]
    assert 'background-color: #434343' in css('quarto-dark :not(pre) > code')                               # white boxes in the dark
    assert 'pre-wrap' in css('li > code') and 'anywhere' in css('main :is(p, li')                       # pages wider than a phone
    assert 'overflow-y: hidden' in css('math[display="block"]')                                          # scroll bars of formulas
    assert 'position: relative' in css('pre.quarto-appendix-bibtex')                                     # copy button
    assert 'pre.sourceCode' in phone and 'figure img.figure-img' in phone and 'font-size: 110%' in phone # rules that act
    assert 'color: inherit' in css('details > summary') and 'nowrap' in css('.quarto-page-breadcrumbs')  # contrast, breadcrumbs
    assert 'pre-wrap' in css('.sentences pre') and 'local("Latin Modern Math")' in css('@font-face')
    assert 'body.quarto-light a' not in (ROOT/'nbs'/'styles.css').read_text()                            # the sidebar says where you are

def luminance(rgb): return sum(w*(x/12.92 if x <= .04045 else ((x + .055)/1.055)**2.4) for w, x in zip((.2126, .7152, .0722), rgb))
def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + .05)/(low + .05)

@pytest.mark.parametrize('ground, ink', [(1., 0.), (34/255, 1.)])
def test_marked_words_can_be_read(ground, ink):
    "The strongest colours of an explanation under black (light theme, styles.css) and white (dark): WCAG AA asks for 4.5 : 1."
    assert 'color: #000' in css('span[style*="background:rgba("]')
    source = (ROOT/'llmrec'/'explain.py').read_text(encoding='utf-8')
    for colour in re.findall(r"'rgba\((\d+),(\d+),(\d+),\{\}\)'", source):
        mixed = [.75*int(c)/255 + .25*ground for c in colour]
        assert contrast(mixed, [ink]*3) >= 4.5, (colour, contrast(mixed, [ink]*3))

def test_code_has_room():
    assert QUARTO['format']['html']['grid']['body-width'] == '900px'
    for name in ('light.scss', 'dark.scss'): assert '$code-block-font-size: .8em;' in (ROOT/'nbs'/name).read_text()

# What formulas are made of, read once from all formulas of the book as MathML.
MATH = ('()*+,./0123456789:;<=>@ABCDEFGHIKLMNOPRSTUVWXY[\\]abcdefghijklmnopqrstuvwxyz{|}±̂̃ΓΛΣΦΩαβγδεηθκλμνπρστφωϕϵ‖’…′‾ℓ←→↦⇔∂∅∇∈∉∑−∝∞∣∥'
        '∪∫∼≈≠≤≥≺≽⊤⋅⌈⌉⏟𝐮𝐯𝒩𝔼∀∃√×÷⟨⟩')

def test_formulas_have_a_font():
    "Where a machine has no font with a MATH table, ours is read: it has one, and all signs of the book's formulas."
    ttx = pytest.importorskip('fontTools.ttLib')
    font = ttx.TTFont(ROOT/'nbs'/'math.woff')
    assert 'MATH' in font and not {c for c in MATH if ord(c) not in font.getBestCmap()}
    assert (ROOT/'nbs'/'math.woff').stat().st_size < 100_000 and 'SIL OPEN FONT LICENSE' in (ROOT/'nbs'/'math-OFL.txt').read_text()

def test_pages_that_are_not_cited():
    "The start has the README's citation, lost readers need none; the name of the package keeps its small letters."
    assert '- citation: false' in text(cells('index.ipynb')[0]['source'])
    for name in ('404.qmd', 'api.qmd', 'references.qmd', 'changes.qmd'): assert 'citation: false\n' in (ROOT/'nbs'/name).read_text()
    assert QUARTO['citation']['type'] == 'chapter' and '<span class="nocase">llmrec' in QUARTO['citation']['container-title']
    assert 'citation: false' not in (ROOT/'README.md').read_text() and '{fig-alt' not in (ROOT/'README.md').read_text()

def test_no_option_of_a_cell_stands_twice(tmp_path):
    "nbdev folds exported cells by itself; where the cell says how, its own word is left."
    twice = '#| code-fold: show\n#| code-summary: "Exported source"\n#| code-fold: true\ndef f(): pass'
    assert folds.one_fold(twice) == '#| code-summary: "Exported source"\n#| code-fold: true\ndef f(): pass'
    for kept in ('#| code-fold: show\nx', '#| code-fold: true\nx', 'x = 1\n#| code-fold: show\n#| code-fold: true', ''): assert folds.one_fold(kept) == kept
    page = tmp_path/'a.ipynb'
    page.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=twice.splitlines(True)), dict(cell_type='markdown', source='x')])))
    assert folds.mend(page) == 1 and folds.mend(page) == 0
    assert 'one_fold.py _proc' in (ROOT/'.github'/'workflows'/'docs.yaml').read_text()

def test_workflow_is_pinned_and_strict():
    "One version of Quarto; the log of the render and the rendered pages are checked before they are published."
    flow = yaml.safe_load((ROOT/'.github'/'workflows'/'docs.yaml').read_text())
    steps = flow['jobs']['build']['steps']
    [quarto] = [s for s in steps if 'quarto-actions/setup' in s.get('uses', '')]
    assert re.fullmatch(r'\d+\.\d+\.\d+', str(quarto['with']['version']))
    runs = [s.get('run', '') for s in steps]
    assert any('tee render.log' in r for r in runs) and 'pipefail' in next(s['shell'] for s in steps if 'render.log' in s.get('run', '') and 'shell' in s)
    assert any('check_site.py _proc/_docs render.log' in r for r in runs) and flow['jobs']['publish']['needs'] == 'build'


# The step after the render, on fragments
SCRIPTS = '''<script src="site_libs/quarto-nav/quarto-nav.js"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js" integrity="sha512-x" crossorigin="anonymous"></script>
<script src="https://cdn.jsdelivr.net/npm/jquery@3.5.1/dist/jquery.min.js" integrity="sha384-x" crossorigin="anonymous" data-relocate-top="true"></script>
<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>
<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" integrity="sha384-x" crossorigin="anonymous"></script>
'''

def test_scripts_of_other_hosts_go():
    assert post.without_scripts(SCRIPTS).strip() == '<script src="site_libs/quarto-nav/quarto-nav.js"></script>'

def test_links_to_names_are_relative():
    base = 'https://llmrec.github.io/llmrec'
    page = f'<link rel="canonical" href="{base}/a.html"><a class="x" href="{base}/b.html#f"><code>f</code></a> <a href="{base}/">home</a>'
    assert post.relative(page, base) == page.replace(f'class="x" href="{base}/', 'class="x" href="')

def test_links_to_methods_reach_their_class():
    places = {'a.html': {'domain', 'f'}, 'b.html': {'rec', 'rec.save'}}
    mended = lambda u: re.search('href="([^"]*)"', post.nearest(f'<a href="{u}">x</a>', 'a.html', places))[1]
    assert mended('b.html#rec.save') == 'b.html#rec.save' and mended('b.html#rec.load') == 'b.html#rec'
    assert mended('#domain.forget') == '#domain' and mended('b.html#gone.f') == 'b.html' and mended('c.html#x.y') == 'c.html#x.y'

def stdout(printed): return f'<div class="cell-output cell-output-stdout">\n<pre><code>{printed}</code></pre>\n</div>'

def test_printed_sentences_wrap_and_tables_do_not():
    words = 'Transfer helped: NDCG@10 0.2868 against 0.2113 from scratch, and so on &amp; so forth, in one line that is long.'
    table = 'model     precision@10\nllmrec    0.194 [0.140, 0.260]' + '   0.296 [0.217, 0.370]'*4
    assert 'cell-output-stdout sentences"' in post.sentences(stdout(words)) and words in post.sentences(stdout(words))
    shown = stdout(f"('supervised', '{words}')").replace('cell-output-stdout"', 'cell-output-display" data-execution_count="3"')
    assert 'cell-output-display sentences" data-execution_count' in post.sentences(shown)
    for other in (table, 'short'): assert post.sentences(stdout(other)) == stdout(other)

def test_markdown_leads_to_markdown():
    md = 'see [05](05_vectors.ipynb#eq-interest), [r](references.qmd#x), <a href="07_x.ipynb">x</a>, [out](https://a.b/c.ipynbx) `d.ipynb`'
    assert post.markdown(md) == ('see [05](vectors.html.md#eq-interest), [r](references.html.md#x), <a href="x.html.md">x</a>, '
                                 '[out](https://a.b/c.ipynbx) `d.ipynb`')


# The check of the rendered site, on a small one
HEAD = '<!DOCTYPE html><html lang="en"><head><link href="site_libs/x.css" rel="stylesheet"><link href="./favicon.svg" rel="icon"></head><body>'

@pytest.fixture
def small(tmp_path):
    def build(a='', b='', css='', **more):
        (tmp_path/'site_libs').mkdir(exist_ok=True)
        (tmp_path/'site_libs'/'x.css').write_text(css)
        (tmp_path/'favicon.svg').write_text('<svg/>')
        (tmp_path/'a.html').write_text(HEAD + f'<h1 id="top">A</h1><p>{a}</p></body></html>')
        (tmp_path/'b.html').write_text(HEAD + f'<h2 id="here">B</h2>{b}</body></html>')
        for name, content in more.items(): (tmp_path/name.replace('_', '.')).write_text(content)
        return site.check(tmp_path)[0]
    return build

def test_a_whole_site_passes(small, capsys, tmp_path):
    fine = ('<a href="b.html#here">b</a> <a href="#top">up</a> <a href="https://arxiv.org/abs/1">paper</a> <img src="favicon.svg" alt="two circles">'
            '<pre><code>x[0](1)</code></pre>')
    assert small(fine) == []
    with pytest.raises(SystemExit) as stop: site.main(tmp_path)
    assert not stop.value.code and 'kB  a page on average' in capsys.readouterr().out

@pytest.mark.parametrize('broken, says', [
    ('<a href="c.html">c</a>', 'no such file'), ('<a href="b.html#gone">b</a>', 'no such place'), ('<a href="#gone">b</a>', 'no such place'),
    ('<img src="favicon.svg">', 'without alternative text'), ('<script src="https://cdn.x.org/y.js"></script>', 'another host'),
    ('<link rel="stylesheet" href="//fonts.googleapis.com/css">', 'another host'), ('<style>@import url("https://x.y/z.css");</style>', 'another host'),
    ('see [evaluate](https://llmrec.github.io/llmrec/m.html#evaluate)', 'Markdown in the text'),
    ('<pre><code># see [`f`](https://llmrec.github.io/llmrec/m.html#f)</code></pre>', 'Markdown in the text'),
    ('as ?@eq-one says', 'leads nowhere')])
def test_what_is_broken_is_found(small, broken, says):
    [fault] = small(broken)
    assert fault.startswith('a.html: ') and says in fault

def test_style_sheets_and_markdown_are_checked(small):
    assert small(css='@import url("https://fonts.googleapis.com/css2?x");') == ['site_libs/x.css asks https://fonts.googleapis.com/css2?x']
    assert small(css='a{background:url(data:image/svg+xml;utf8,<svg xmlns="http://www.w3.org/2000/svg">)}') == []

def test_links_of_markdown_pages_are_checked(small):
    [fault] = small(a_html_md='see [x](gone.html.md), [y](https://a.b/c), `[z](no.md)`')
    assert fault == 'a.html.md: link to gone.html.md: no such file'

def test_warnings_of_the_render_are_errors():
    log = ('[ 1/45] index.ipynb\n\x1b[33mWARN: Unable to resolve link target: x.ipynb\x1b[39m\n[WARNING] Could not convert TeX math\n'
           'a page about warnings\n/x/processors.py:233: UserWarning: Found cells\nOutput created: _docs/index.html\n')
    assert len(site.warnings(log)) == 3

def test_heavy_pages_are_found(small, tmp_path, monkeypatch):
    (tmp_path/'big.png').write_bytes(os.urandom(50_000))
    monkeypatch.setattr(site, 'LIMIT', 20)
    assert [f[:7] for f in small('<img src="big.png" alt="noise">')] == ['a.html:']

@each_nb
def test_pictures_are_light(name):
    "Of the limit that check_site.py sets a page, pictures take up to two thirds."
    sizes = [len(text(o['data']['image/png']))*3//4 for c in cells(name) for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]
    assert sum(sizes)/1024 < site.LIMIT*2/3 and max(sizes, default=0) <= 160_000
