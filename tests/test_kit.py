"""What stands around the notebooks: the package, its pinned environment and how it is made, the README, the checks.

The checks are those of `make test` before anything is executed: that notebooks, package and README agree, and the form.
"""

import ast, importlib, json, os, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).resolve().parent.parent
CFG = ConfigParser(delimiters=['='])
CFG.read(ROOT / 'settings.ini')
CFG = CFG['DEFAULT']
RUN = [Requirement(line) for line in CFG['requirements'].split()]
DEV = [Requirement(line) for line in CFG['dev_requirements'].split()]


def pins():
    "{name: requirement} of constraints.txt"
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and line[0] != '#']
    return {canonical(r.name): r for r in pinned}


PINS = pins()


def run(*cmd, ok=True, **kw):
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **kw)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the package ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built as for a plain install, from a copy of the files that make up the package"
    src = tmp_path_factory.mktemp('src')
    for name in ('setup.py', 'pyproject.toml', 'settings.ini', 'LICENSE'):
        shutil.copy(ROOT / name, src / name)
    shutil.copytree(ROOT / 'sabr', src / 'sabr', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(ROOT / 'nbs' / 'experiments', src / 'nbs' / 'experiments')
    nbformat.write(new_notebook(), src / 'nbs' / 'experiments' / '99_proof.ipynb')
    offline = ['-q', '--no-deps', '--no-build-isolation', '--no-index']
    run(sys.executable, '-m', 'pip', 'wheel', *offline, '-w', src / 'dist', src)
    return zipfile.ZipFile(next((src / 'dist').glob('*.whl')))


def test_wheel_holds_package_and_experiments(wheel):
    names = set(wheel.namelist())
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / 'sabr').rglob('*.py')} <= names
    assert {f'sabr/experiments/{p.name}' for p in (ROOT / 'nbs' / 'experiments').glob('*.ipynb')} <= names
    assert 'sabr/experiments/99_proof.ipynb' in names
    assert {n.split('/')[0].split('-')[0] for n in names} == {'sabr'}, 'nothing is installed outside of sabr/'


def test_wheel_metadata(wheel):
    def read(end):
        return wheel.read(next(name for name in wheel.namelist() if name.endswith(end))).decode()

    meta, commands = read('METADATA'), read('entry_points.txt')
    assert f"Version: {CFG['version']}\n" in meta and 'Apache-2.0' in meta
    for version in ('3.11', '3.12', '3.13'):
        assert f'Python :: {version}\n' in meta
    assert 'sabr_run = sabr.run.command:main' in commands
    assert 'sabr_predict = sabr.use.predict:main' in commands


def test_commands_exist():
    for script in CFG['console_scripts'].split():
        module, func = script.split('=')[1].split(':')
        assert callable(getattr(importlib.import_module(module), func))


def imported(path):
    "The top-level modules that a file imports by absolute name"
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split('.')[0] for name in found}


def test_every_import_is_a_requirement():
    by_module = metadata.packages_distributions()
    known = {canonical(r.name) for r in RUN}
    for path in (ROOT / 'sabr').rglob('*.py'):
        for module in imported(path) - set(sys.stdlib_module_names) - {'sabr', 'IPython'}:
            distributions = {canonical(d) for d in by_module.get(module, [module])}
            assert known & distributions, f'{path.name} imports {module}: add it to settings.ini'


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_constraints_pin_exactly():
    for r in PINS.values():
        assert [s.operator for s in r.specifier] == ['=='], f'constraints.txt: {r} is not pinned'


@pytest.mark.parametrize('req', RUN + DEV, ids=lambda r: r.name)
def test_range_starts_at_the_tested_release(req):
    (pin,) = PINS[canonical(req.name)].specifier
    bounds = {str(s) for s in req.specifier}
    assert f'>={pin.version}' in bounds, f'settings.ini: {req}, but the tests run with {pin.version}'
    assert req.specifier.contains(pin.version)


def test_environment_is_the_pinned_one():
    "Every distribution in the environment that make built has the pinned release"
    if not (Path(sys.prefix) / 'sabr-env').exists():
        pytest.skip('these tests do not run in the environment that make builds')
    found = {canonical(d.name): d.version for d in metadata.distributions()}
    found.pop('sabr', None)
    wrong = {name: v for name, v in found.items() if name not in PINS or not PINS[name].specifier.contains(v)}
    assert not wrong, f'not as in constraints.txt: {wrong}'


# --- making the environment -------------------------------------------------------------------------------------------

FAKE = '''#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
case "$*" in
    "-c import sys"*) exit {fits} ;;
    "-V") echo "Python 3.12.0" ;;
    "-m venv --without-pip "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/nopip" ;;
    "-m venv "*) {venv}; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip --version") [ ! -e "${0%/bin/*}/nopip" ] ;;
    "-m pip --python "*) {host_pip} && rm "${4%/bin/*}/nopip" ;;
    *-e*) {install} ;;
    "-m virtualenv"*) exit 1 ;;
esac
'''


class Bench:
    "A copy of what tools/setup_env.sh needs, and a PATH with no other interpreters than those a test adds"

    def __init__(self, root):
        self.root = root / 'project'
        self.bin = root / 'bin'
        self.log = root / 'log'
        (self.root / 'tools').mkdir(parents=True)
        self.bin.mkdir()
        for name in ('tools/setup_env.sh', 'constraints.txt', 'settings.ini', 'setup.py'):
            shutil.copy(ROOT / name, self.root / name)
        for name in 'sh awk cat cmp mkdir rm mv cp touch id dirname'.split():
            (self.bin / name).symlink_to(shutil.which(name))

    def python(self, name, fits=0, venv='true', host_pip='false', install='true'):
        "An interpreter that only notes how it is called; `venv`, `host_pip` and `install` say what then succeeds"
        text = FAKE
        for key, value in dict(fits=fits, venv=venv, host_pip=host_pip, install=install).items():
            text = text.replace('{%s}' % key, str(value))
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make(self, ok=True, **env):
        "Run the script; returns what it printed and the calls it made"
        self.log.write_text('')
        env = dict(PATH=str(self.bin), LOG=str(self.log), **env)
        said = run(shutil.which('sh'), self.root / 'tools' / 'setup_env.sh', ok=ok, env=env)
        return said, self.log.read_text()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_environment_is_made_once(bench):
    bench.python('python3')
    said, calls = bench.make()
    assert 'once' in said and "-e .[dev]" in calls and '-c constraints.txt' in calls
    said, calls = bench.make()
    assert said == '' and '-m' not in calls


@pytest.mark.parametrize(
    'name,old,new',
    [
        ('constraints.txt', 'tqdm==', 'tqdm==9'),
        ('settings.ini', 'tqdm>=', 'tqdm>=9'),
        ('settings.ini', 'command:main', 'command:other'),
    ],
)
def test_environment_is_remade_after_a_change(bench, name, old, new):
    bench.python('python3')
    bench.make()
    (bench.root / '.venv' / 'old').touch()
    (bench.root / name).write_text((bench.root / name).read_text().replace(old, new))
    said, calls = bench.make()
    assert 'making it again' in said and '-e .[dev]' in calls and not (bench.root / '.venv' / 'old').exists()


def test_other_settings_do_not_remake_it(bench):
    bench.python('python3')
    bench.make()
    settings = bench.root / 'settings.ini'
    settings.write_text(settings.read_text().replace('description = ', 'description = New: '))
    assert bench.make()[0] == ''


def test_interrupted_installation_is_made_again(bench):
    bench.python('python3', install='exit 1')
    assert 'did not finish' in bench.make(ok=False)[0]
    bench.python('python3')
    assert 'was not finished' in bench.make()[0]
    assert bench.make()[0] == ''


def test_moved_project_is_made_again(bench):
    bench.python('python3')
    bench.make()
    bench.root = bench.root.rename(bench.root.with_name('moved'))
    assert 'another place' in bench.make()[0]


def test_foreign_environment_is_left_alone(bench):
    bench.python('python3')
    (bench.root / '.venv').mkdir()
    (bench.root / '.venv' / 'mine').touch()
    assert 'was not made by this Makefile' in bench.make(ok=False)[0] and (bench.root / '.venv' / 'mine').exists()


def test_interpreter_that_fits_is_found(bench):
    bench.python('python3', fits=1)
    bench.python('python3.13', fits=127)
    bench.python('python3.12')
    assert 'python3.12 -m venv' in bench.make()[1]


def test_python3_is_preferred_and_PYTHON_decides(bench):
    bench.python('python3')
    bench.python('python3.13')
    assert 'python3 -m venv' in bench.make(PYTHON='')[1]
    shutil.rmtree(bench.root / '.venv')
    assert 'python3.13 -m venv' in bench.make(PYTHON='python3.13')[1]
    shutil.rmtree(bench.root / '.venv')
    bench.python('python3.13', fits=1)
    assert 'PYTHON=python3.13' in bench.make(ok=False, PYTHON='python3.13')[0]


def test_no_interpreter_says_what_to_do(bench):
    said, _ = bench.make(ok=False)
    assert 'no Python 3.11, 3.12 or 3.13 found' in said and 'apt-get install' in said
    assert not (bench.root / '.venv').exists()


def test_python_without_venv_uses_the_hosts_pip(bench):
    bench.python('python3', venv='exit 1', host_pip='true')
    assert '-m pip --python .venv/bin/python install -q pip' in bench.make()[1]


def test_python_without_venv_or_pip_says_what_to_do(bench):
    bench.python('python3', venv='exit 1')
    said, _ = bench.make(ok=False)
    assert said.splitlines()[-1].endswith("run 'sudo apt-get install python3-venv' and try again")
    assert not (bench.root / '.venv').exists()


# --- README and checks ------------------------------------------------------------------------------------------------

PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='
TITLE = """# title

> what for

![a](images/a.png) [core](00_core.ipynb) [set](../data/sets/README.md) [out](https://example.org/a) `[code](x)` \
<img src="images/a.png">"""


def index_cells():
    "The cells of a README: with links, pictures and results, and some that are left out"
    said = new_output('stream', text='\x1b[31msaid\x1b[0m\n')
    table = new_output('execute_result', data={'text/plain': 'shown', 'text/html': '<b>x</b>'})
    picture = new_output('display_data', data={'image/png': PNG, 'text/plain': '<Figure>'})
    return [
        new_markdown_cell(TITLE),
        new_code_cell('#| hide\nsecret = 1'),
        new_code_cell('tagged = 1', metadata=dict(tags=['hide'])),
        new_code_cell("#| eval: false\nprint('said')", outputs=[said]),
        new_code_cell('#| echo: false\nhidden_code()', outputs=[table]),
        new_code_cell('draw()', outputs=[picture]),
        new_markdown_cell('```\n[not a link](nowhere)\n```'),
    ]


def core_cells():
    "The cells of a library notebook with one exported function"
    return [
        new_code_cell('#| default_exp core'),
        new_markdown_cell('# core\n\n> first'),
        new_code_cell('#| export\ndef one():\n    return 1'),
    ]


def write_notebook(cells, path):
    for i, cell in enumerate(cells):
        cell['id'] = f'{i:08x}'
    kernel = dict(display_name='python3', language='python', name='python3')
    nbformat.write(new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)


@pytest.fixture(scope='module')
def in_step(tmp_path_factory):
    "A project of two notebooks, in step with its package"
    root = tmp_path_factory.mktemp('tiny')
    (root / 'nbs' / 'images').mkdir(parents=True)
    (root / 'data' / 'sets' / 'big').mkdir(parents=True)
    (root / 'nbs' / 'images' / 'a.png').write_bytes(b'picture')
    (root / 'data' / 'sets' / 'README.md').write_text('about')
    for name in ('settings.ini', 'pyproject.toml'):
        shutil.copy(ROOT / name, root)
    write_notebook(index_cells(), root / 'nbs' / 'index.ipynb')
    write_notebook(core_cells(), root / 'nbs' / '00_core.ipynb')
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    nbdev = 'import nbdev.clean, nbdev.doclinks; nbdev.clean.nbdev_clean(); nbdev.doclinks.nbdev_export()'
    run(sys.executable, '-c', nbdev, cwd=root, env=env)
    run(sys.executable, '-m', 'ruff', 'format', '-q', '--no-cache', 'sabr', cwd=root)
    run(sys.executable, ROOT / 'tools' / 'build_readme.py', root)
    return root


@pytest.fixture
def tiny(in_step, tmp_path):
    return Path(shutil.copytree(in_step, tmp_path / 'tiny'))


def test_readme(tiny):
    text = (tiny / 'README.md').read_text()
    for link in ('nbs/images/a.png)', '(nbs/00_core.ipynb)', '(data/sets/README.md)', 'src="nbs/images/a.png"'):
        assert link in text
    for untouched in ('(https://example.org/a)', '`[code](x)`', '[not a link](nowhere)'):
        assert untouched in text
    for block in ("```python\nprint('said')\n```", '```text\nsaid\n```', '```text\nshown\n```'):
        assert block in text
    for gone in ('secret', 'tagged', 'hidden_code', '#|', '<b>', '<Figure>', '\x1b'):
        assert gone not in text
    (picture,) = (tiny / 'nbs' / 'images').glob('index_*')
    assert f'(nbs/images/{picture.name})' in text


def test_readme_with_a_dead_link_fails(tiny):
    path = tiny / 'nbs' / 'index.ipynb'
    path.write_text(path.read_text().replace('00_core.ipynb', '00_gone.ipynb'))
    before = (tiny / 'README.md').read_text()
    assert 'nbs/00_gone.ipynb' in run(sys.executable, ROOT / 'tools' / 'build_readme.py', tiny, ok=False)
    assert (tiny / 'README.md').read_text() == before


def check(tiny, ok=True):
    return run(sys.executable, ROOT / 'tools' / 'check_sync.py', tiny, ok=ok)


def test_check_passes_when_in_step(tiny):
    before = {p: p.read_bytes() for p in tiny.rglob('*') if p.is_file()}
    assert 'in step' in check(tiny)
    assert {p: p.read_bytes() for p in tiny.rglob('*') if p.is_file()} == before, 'the check changes nothing'


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_check_shows_edits(tiny):
    "Edits by hand of module and README, a notebook that is not clean, code that was not exported"
    edit(tiny / 'sabr' / 'core.py', 'return 1', 'return 2')
    edit(tiny / 'README.md', 'what for', 'edited')
    edit(tiny / 'nbs' / 'index.ipynb', '"execution_count": null', '"execution_count": 7')
    edit(tiny / 'nbs' / '00_core.ipynb', 'return 1', 'return 3')
    said = check(tiny, ok=False).splitlines()
    for line in ('-    return 2', '+    return 3', '-> edited', '+> what for', '-   "execution_count": 7,'):
        assert line in said
    assert not any('nbs/00_core.ipynb' in line and line[:3] == '---' for line in said)


def test_check_shows_stale_and_missing_modules(tiny):
    shutil.copy(tiny / 'sabr' / 'core.py', tiny / 'sabr' / 'stale.py')
    (tiny / 'sabr' / '_modidx.py').unlink()
    said = check(tiny, ok=False).splitlines()
    assert 'sabr/stale.py: comes from no notebook' in said and 'sabr/_modidx.py: is missing' in said
    assert 'make sync (and remove sabr/stale.py)' in said[-1]


def test_check_names_a_broken_notebook(tiny):
    (tiny / 'nbs' / '00_core.ipynb').write_text('{')
    assert 'nbs/00_core.ipynb is not a notebook' in check(tiny, ok=False)


# --- form -------------------------------------------------------------------------------------------------------------


def form_of(root, *cells):
    "What the check of the form says about a notebook of these code cells, exported ones and others, line by line"
    write_notebook([new_code_cell(source) for source in cells], root / 'nbs' / 'form.ipynb')
    return run(sys.executable, ROOT / 'tools' / 'check_form.py', root, ok=False).splitlines()


def function(n_lines, *before):
    "The source of an exported function with `n_lines` lines of code"
    lines = [f'    x = {i}' for i in range(n_lines - 1)]
    return '\n'.join(['#| export', 'def f():', *before, *lines])


def test_form_of_this_notebook_is_fine(tiny):
    assert run(sys.executable, ROOT / 'tools' / 'check_form.py', tiny) == ''


def test_code_that_is_not_formatted(tiny):
    "The cell is named, and the command that formats it"
    (tiny / 'tests').mkdir()
    (tiny / 'tests' / 'test_a.py').write_text('x  = 1\n')
    said = form_of(tiny, 'x = 1', 'x  = 1')
    assert any(line.startswith('nbs/form.ipynb:cell 2:') for line in said)
    assert any(line.startswith('tests/test_a.py:1:') for line in said)
    assert said[-1] == 'check_form: 2 not formatted; to format them, run: make sync'


@pytest.mark.parametrize('source, rule', [('f = lambda x: x', 'E731'), (f"x = '{'x' * 120}'", 'E501')])
def test_code_against_a_rule(tiny, source, rule):
    "Lambdas with a name and lines that are too wide; nothing formats these, the cell has to be edited"
    said = form_of(tiny, 'x = 1', source)
    assert len(said) == 2 and said[0].startswith('nbs/form.ipynb:cell 2:1:') and rule in said[0]
    assert said[1] == 'check_form: 1 to correct by hand'


def test_long_cell(tiny):
    lines = [f'x = {i}' for i in range(60)]
    said = form_of(tiny, '\n'.join(['#| hide', '', *lines]), '\n'.join([*lines, 'x = 60']))
    assert said[0] == 'nbs/form.ipynb:cell 2: 61 lines, the limit is 60: split the cell' and len(said) == 2


def test_long_function(tiny):
    "Docstring, comments and blank lines are not counted; functions of cells that are not exported may be long"
    fine = function(40, '    "About f"', '', '    # a comment')
    said = form_of(tiny, fine, function(41), function(41).replace('#| export\n', ''))
    assert said[0] == 'nbs/form.ipynb:cell 2: f has 41 lines, the limit is 40: split the function' and len(said) == 2


def test_signature_counts_as_one_line(tiny):
    "However many parameters stand below each other"
    parameters = [f'    p{i}: int,  # number {i}' for i in range(8)]
    for n, faults in ((40, 0), (41, 2)):
        source = function(n).replace('def f():', '\n'.join(['def f(', *parameters, '):']))
        said = form_of(tiny, source, 'f = lambda: 1')
        assert len(said) == 2 + faults // 2, said


def test_too_many_parameters(tiny):
    "`self` is not counted"
    names = [f'p{i}' for i in range(9)]
    fine = f"#| export\ndef f(self, {', '.join(names[:8])}):\n    return 1"
    said = form_of(tiny, fine, f"#| export\ndef f({', '.join(names)}):\n    return 1")
    fault = 'f takes 9 parameters, the limit is 8: group some'
    assert any(line == f'nbs/form.ipynb:cell 2: {fault}' for line in said)
    assert not any(line.startswith('nbs/form.ipynb:cell 1:') and 'takes' in line for line in said)


def test_large_notebook(tiny):
    said = form_of(tiny, *[f"# {'x' * 100}\nx = {i}" for i in range(4000)])
    assert said[0].startswith('nbs/form.ipynb: ') and 'the limit is 500: remove or shrink pictures' in said[0]


def test_check_includes_the_form(tiny):
    edit(tiny / 'nbs' / 'index.ipynb', 'draw()', 'draw( )')
    said = check(tiny, ok=False)
    assert 'nbs/index.ipynb:cell 6:' in said and '1 not formatted' in said


# --- commands ---------------------------------------------------------------------------------------------------------


def test_make_alone_lists_the_targets():
    said = run('make', '-C', ROOT, '--no-print-directory')
    for target in 'demo test lab bench bench-quick readme clean help'.split():
        assert f'make {target} ' in said


def test_make_bench_writes_records(tmp_path):
    if not (ROOT / '.venv' / 'sabr-env').exists():
        pytest.skip('there is no environment built by make')
    args = '--models tiny,monai_unet --sizes 32 --batches 1 --precisions fp32'
    said = run('make', '-C', ROOT, 'bench', f'OUT={tmp_path}', f'ARGS={args}')
    records = json.loads((tmp_path / 'bench.json').read_text())
    columns = 'model image_size batch mode precision device median_s peak_mb gflop params ratio_to_paper'.split()
    assert [list(r) for r in records] == [columns] * 5
    assert {r['mode'] for r in records} == {'forward', 'train', 'step'} and all(r['median_s'] > 0 for r in records)
    assert (tmp_path / 'bench.csv').exists() and (tmp_path / 'bench.png').stat().st_size > 10_000
    assert str(tmp_path) in said


def test_ci_runs_the_readmes_command():
    lines = [l for l in (ROOT / '.ci' / 'run').read_text().splitlines() if l and l[0] != '#']
    assert lines[-1] == 'exec make test' and os.access(ROOT / '.ci' / 'run', os.X_OK)
