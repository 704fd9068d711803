"""The way through the book: order, links to the next chapter, the page "How to read", the reading list."""
import re
import pytest
import guide
from guide import PATHS, how_to_read, minutes, needs_and_gives, onward, order, seconds
from llms import ROOT, entries

PARTS = ['Data', 'How we measure', 'Language models', 'Vectors, loss and transfer', 'Recommenders', 'Fusion and what enters it', 'After the ranking',
         'Generative recommenders', 'The recommender and its pipeline', 'Case studies', 'Results', 'Internals', 'Appendix']

def text(x): return x if isinstance(x, str) else ''.join(x)

def test_the_parts_stand_in_the_order_of_reading():
    "The start and how to read come first; then data, measuring, models, fusion, lists, the pipeline, cases, results, internals."
    parts = entries()
    assert [p for p, _ in parts if p] == PARTS
    assert [names for p, names in parts if not p] == [['index.ipynb'], ['how_to_read.qmd']]

def test_a_chapter_stands_behind_what_it_needs():
    "What it links to as needed comes earlier in the sidebar, internals apart: they are looked up."
    place = {name: i for i, name in enumerate(order())}
    late = {}
    for name in order():
        needs = needs_and_gives(name)[0] if re.match('[0-4]', name) else None
        for label, other in re.findall(r'\[([^\]]*)\]\((\d\d_\w+\.ipynb)', needs or ''):
            if 'later' in label: continue           # it says so itself
            if re.match('[0-4]', other) and place[other] > place[name]: late.setdefault(name, []).append(other)
    assert not late

@pytest.mark.parametrize('name', order())
def test_next_is_the_next_of_the_sidebar(name):
    last = [text(c['source']) for c in guide.cells(name) if c['cell_type'] == 'markdown'][-1]
    assert onward(name, last) == last, 'run  python tests/pages.py'

def test_how_a_link_is_led_on():
    pages = order()
    assert onward(pages[1], f'x\n\nNext: [elsewhere]({pages[0]}). More.').endswith(f']({pages[2]}). More.')
    assert onward(pages[1], f'Next: [in words]({pages[2]}).') == f'Next: [in words]({pages[2]}).'   # what leads there keeps its words
    assert onward(pages[-1], 'Next: [x](y.ipynb)') == 'Next: [x](y.ipynb)'

def test_every_chapter_is_on_the_page():
    page = how_to_read()
    for name in order():
        if name[0].isdigit(): assert f']({name}) |' in page, name
    for what, numbers in PATHS.values(): assert all(n in guide.files() for n in numbers.split())
    assert page.count('<!-- end -->') == 3 and how_to_read() == page

def test_times_are_of_chapters():
    assert not set(seconds()) - {n[:-6] for n in order()}, 'a chapter that is gone, in bench/chapters.csv'
    assert all(m % 5 == 0 and 5 <= m <= 120 for m in map(minutes, order()))

def test_what_counts_as_read(monkeypatch):
    def book(*cells): monkeypatch.setattr(guide, 'cells', lambda name: [dict(cell_type=k, source=s) for k, s in cells])
    book(('markdown', 'word '*2_000), ('code', '#| hide\n' + 'x = 1\n'*500))
    assert minutes('x') == 10
    book(('code', 'x = 1\n'*200), ('code', '#| exports\n' + 'x = 1\n'*200), ('code', '#| export\n' + 'x = 1\n'*200))
    assert minutes('x') == 20
    book(('markdown', '# T\n\n> s'), ('markdown', 'why\n\n**You need** [a](01_a.ipynb)\nand b. **You get** c.\n\nmore'))
    assert needs_and_gives('x') == ('[a](01_a.ipynb) and b.', 'c.')
    book(('markdown', '**Needs:** a.\\\n**Gives:** b.'))
    assert needs_and_gives('x') == ('a.', 'b.')

def test_the_reading_list_leads_somewhere():
    "Every entry of the article's §7 has a link or says that there is none; links to chapters exist."
    page = (ROOT/'nbs'/'reading_list.qmd').read_text(encoding='utf-8')
    for url in re.findall(r'\]\(([^)\s]+)\)', page):
        assert re.match(r'https://[\w.-]+/\S*$|https://[\w.-]+$', url) or (ROOT/'nbs'/url.partition('#')[0]).exists(), url
    rows = [r for r in page.split('\n') if r.startswith('| ') and not re.match(r"\| (the article's|question) ", r)]
    assert len(rows) >= 15 and all('](' in r or 'not found' in r for r in rows)
    for right in ('Aggarwal', 'Improving Language Understanding by Generative Pre-Training', 'Rokach'): assert right in page

def test_links_of_the_guide():
    page = guide.PAGE.read_text(encoding='utf-8')
    for url in re.findall(r'\]\(([^)\s]+)\)', page): assert url.startswith('https:') or (ROOT/'nbs'/url.partition('#')[0]).exists(), url
