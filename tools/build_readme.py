#!/usr/bin/env python
"""Write README.md from nbs/index.ipynb, without Quarto.

usage: build_readme.py [ROOT]      ROOT is the project's folder unless given

Cells that begin with `#| hide` (or carry the tag `hide`) are left out, `#| echo: false` leaves out the code but keeps what it printed,
other `#|` lines vanish. Text results become ```text blocks; pictures among the results are written to nbs/images/index_*. Links and
pictures are relative to nbs/ in the notebook and to the project's folder in README.md; one that leads nowhere is an error.
"""

import os, posixpath, re, sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import Preprocessor
from traitlets.config import Config

# a markdown link or picture, or the src/href of an HTML tag: what stands before the target, and the target
LINK = re.compile(r'(\]\(|\b(?:src|href)=")([^)"\s]+)')
CODE = re.compile(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', re.M | re.S)
HEADER = '<!-- Written by `make readme` from nbs/index.ipynb: edit the notebook, not this file. -->\n\n'


class Flags(Preprocessor):
    "Obeys the `#|` lines at the top of code cells, and rewrites the links of markdown cells"

    def preprocess(self, nb, resources):
        nb.cells = [c for c in map(self.one, nb.cells) if c is not None]
        return nb, resources

    def one(self, cell):
        if 'hide' in cell.metadata.get('tags', []):
            return None
        if cell.cell_type == 'markdown':
            cell.source = from_root(cell.source)
        if cell.cell_type != 'code':
            return cell
        flags = re.findall(r'^#\|\s*(.*?)\s*$', cell.source, re.M)
        if any(f.split()[:1] == ['hide'] or f == 'include: false' for f in flags):
            return None
        cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
        if 'echo: false' in flags:
            cell.source = ''
        return cell if cell.source or cell.outputs else None


def from_root(text):
    "`text` of a markdown cell in nbs/ with its relative links seen from the project's folder; code is left alone"

    def move(m):
        if re.match(r'[a-z][a-z0-9+.-]*:|[#/]', m[2], re.I):
            return m[0]
        return m[1] + posixpath.normpath(posixpath.join('nbs', m[2]))

    parts = CODE.split(text)
    return ''.join(p if i % 2 else LINK.sub(move, p) for i, p in enumerate(parts))


def dead_links(text, root):
    "The relative links of `text` for which there is no file below `root`"
    prose = ''.join(CODE.split(text)[::2])
    near = [t for _, t in LINK.findall(prose) if not re.match(r'[a-z][a-z0-9+.-]*:|[#/]', t, re.I)]
    return [t for t in near if not (root / unquote(t.split('#')[0])).exists()]


# code and results as fenced blocks; no text at all for a cell whose code is hidden
TEMPLATE = """{% extends 'markdown/index.md.j2' %}
{% block input %}{% if cell.source %}```python
{{ cell.source }}
```{% endif %}
{% endblock input %}
{% block stream %}
```text
{{ output.text | strip_ansi | trim }}
```
{% endblock stream %}
{% block data_text scoped %}
```text
{{ output.data['text/plain'] | trim }}
```
{% endblock data_text %}"""


def build(root):
    "Write `root`/README.md and return its text"
    source = root / 'nbs' / 'index.ipynb'
    if not source.exists():
        raise SystemExit(f'{source} is missing: README.md is written from it')
    show = ['text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
    exporter = MarkdownExporter(config=Config(NbConvertBase=dict(display_data_priority=show)), raw_template=TEMPLATE)
    exporter.register_preprocessor(Flags, enabled=True)
    names = dict(unique_key='index', output_files_dir='nbs/images')
    text, found = exporter.from_notebook_node(nbformat.read(source, 4), resources=names)
    text = HEADER + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'
    for old in (root / 'nbs' / 'images').glob('index_*'):
        old.unlink()
    for name, data in sorted(found['outputs'].items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    if dead := dead_links(text, root):
        raise SystemExit(
            'nbs/index.ipynb has links that lead nowhere (as seen from the project folder): ' + ', '.join(dead)
        )
    new = root / 'README.md.new'
    new.write_text(text, encoding='utf-8')
    os.replace(new, root / 'README.md')
    return text


if __name__ == '__main__':
    if len(sys.argv) > 2 or '-h' in sys.argv or '--help' in sys.argv:
        raise SystemExit(__doc__)
    build(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
