"Package sabr: settings.ini states everything about it. The experiment notebooks are installed as sabr/experiments."

from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages
from setuptools.command.build_py import build_py

root = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=['='])
parser.read(root / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
statuses = [
    '1 - Planning',
    '2 - Pre-Alpha',
    '3 - Alpha',
    '4 - Beta',
    '5 - Production/Stable',
    '6 - Mature',
    '7 - Inactive',
]
pythons = ['3.11', '3.12', '3.13']
assert cfg['min_python'] == pythons[0], f"settings.ini: min_python is {cfg['min_python']}, setup.py knows {pythons}"


class BuildWithExperiments(build_py):
    "Copies nbs/experiments/*.ipynb into the built package, so that `sabr_run` finds them after a plain install"

    def experiments(self):
        return sorted((root / 'nbs' / 'experiments').glob('*.ipynb'))

    def built(self, path):
        return str(Path(self.build_lib) / cfg['lib_path'] / 'experiments' / path.name)

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the working tree has them already
        for path in self.experiments():
            self.mkpath(str(Path(self.built(path)).parent))
            self.copy_file(str(path), self.built(path))

    def get_outputs(self, include_bytecode=1):
        own = [] if self.editable_mode else [self.built(p) for p in self.experiments()]
        return super().get_outputs(include_bytecode) + own

    def get_source_files(self):
        return super().get_source_files() + [str(p.relative_to(root)) for p in self.experiments()]


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(root / 'README.md').read_text(encoding='utf-8')
    if (root / 'README.md').exists()
    else cfg['description'],
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    keywords=cfg['keywords'].split(),
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: ' + statuses[int(cfg['status']) - 1],
        'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Medical Science Apps.',
        f"Natural Language :: {cfg['language']}",
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: {v}' for v in pythons),
    ],
    python_requires=f">={cfg['min_python']},<3.14",
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    install_requires=cfg['requirements'].split(),
    extras_require=dict(dev=cfg['dev_requirements'].split()),
    entry_points=dict(
        console_scripts=cfg['console_scripts'].split(), nbdev=[f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]
    ),
    cmdclass=dict(build_py=BuildWithExperiments),
    zip_safe=False,
)
