"""What is left to do when Quarto has rendered the site; `_quarto.yml` calls it, the workflow checks the result.

Standard library only. Each step takes a page and returns it; tests/test_site.py holds them on fragments."""
import html, os, re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def without_scripts(page):
    "Quarto adds jquery and requirejs, from another host, to each page with a table; nothing here uses them."
    loaders = (r'<script[^>]*\ssrc="https?://[^"]*/(?:jquery|require)[^"]*"[^>]*></script>\s*'
               r'|<script[^>]*>\s*define\(\'jquery\'[^<]*</script>\s*')
    return re.sub(loaders, '', page)

def relative(page, base):
    "nbdev writes links to names with the whole address of the site; here they lead to the page beside this one."
    return re.sub(rf'(<a\b[^>]*?\shref="){re.escape(base)}/(?=[\w.-]+\.(?:html|txt|bib)\b)', r'\1', page)

def anchors(page):
    "All places of a page that a link can lead to."
    return set(re.findall(r'\sid="([^"]+)"', page))

def nearest(page, name, places):
    "A method that is written inside its class has no section: links to it lead to the class, other dead ones to the page."
    def one(m):
        there = m[2] or name
        if there not in places or m[3] in places[there]: return m[0]
        owner = m[3].rpartition('.')[0]
        return m[1] + m[2] + (f'#{owner}' if owner in places[there] else '#' if not m[2] else '') + '"'
    return re.sub(r'(<a\b[^>]*?\shref=")([\w.-]+\.html|)#([\w.-]+\.[\w.-]+)"', one, page)

def is_prose(text):
    "Long lines of words: no columns, no code."
    long = [line for line in text.split('\n') if len(line) > 90]
    return bool(long) and not any(re.search(r'\S {2,}\S', line) for line in text.split('\n'))

def sentences(page):
    "Sentences that a cell prints or shows get the class under which styles.css lets them wrap; printed tables keep their columns and scroll."
    def one(m):
        text = html.unescape(re.sub(r'<[^>]+>', '', m[3]))
        return f'{m[1]} sentences{m[2]}{m[3]}' if is_prose(text) else m[0]
    return re.sub(r'(<div class="[^"]*\bcell-output-(?:stdout|display)[^"]*)("[^>]*>\s*)(<pre>.*?</pre>)', one, page, flags=re.S)

def markdown(text):
    "Links between the Markdown pages lead to Markdown pages."
    return re.sub(r'(?<=[("])(?:\d\d_)?(\w+)\.(?:ipynb|qmd)(?=[)#"])', r'\1.html.md', text)

def site():
    "Address of the site."
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']['doc_host'] + cfg['DEFAULT']['doc_baseurl']

def mend(folder, base):
    "Mend all pages of a rendered site."
    pages = {p.name: p.read_text(encoding='utf-8') for p in sorted(folder.glob('*.html'))}
    places = {name: anchors(page) for name, page in pages.items()}
    for name, page in pages.items():
        new = sentences(without_scripts(page))
        if name != '404.html': new = nearest(relative(new, base), name, places)
        if new != page: (folder/name).write_text(new, encoding='utf-8')
    for p in folder.glob('*.html.md'): p.write_text(markdown(p.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__': mend(Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR']), site())
