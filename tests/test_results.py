"The committed measurements: means are those of the cases, differences can be computed again, and the README quotes what is there."

from pathlib import Path
import numpy as np, pandas as pd, pytest
from sabr.judge.scores import difference_table, paired_difference

ROOT = Path(__file__).resolve().parent.parent
read = lambda name: pd.read_csv(ROOT / 'nbs' / 'experiments' / 'results' / name, dtype=dict(case=str, patient=str))
NAMES = {
    'default': 'default',
    'URPC': 'urpc',
    'ICT': 'ict',
    'CPS': 'cps',
    'supervised only': 'supervised',
    'UA-MT': 'ua_mt',
    'Mean Teacher': 'mean_teacher',
    'UniMatch': 'unimatch',
    'SCO-SSL': 'sco_ssl',
    'BCP': 'bcp',
    'published': 'published',
}


@pytest.fixture(scope='module')
def runs():
    return read('compare.csv')


@pytest.fixture(scope='module')
def cases():
    t = read('compare_cases.csv.gz')
    return t[t.stage != 'finetune']


@pytest.fixture(scope='module')
def parts():
    return read('ablate.csv'), read('ablate_cases.csv.gz')


def test_every_method_has_three_seeds(runs):
    few = runs[runs.label_fraction == 0.1]
    assert (
        set(few.method) == set(NAMES.values())
        and (few.groupby(['dataset', 'method']).seed.apply(lambda s: sorted(s) == [0, 1, 2])).all()
    )
    assert runs.groupby('dataset').image_passes.nunique().eq(1).all()


def test_runs_are_the_means_of_their_cases(runs, cases):
    key = ['dataset', 'method', 'label_fraction', 'seed']
    mean = cases.groupby(key)[['dice', 'hd95', 'asd']].mean()
    there = runs.set_index(key).loc[mean.index]
    assert len(mean) == len(runs)
    np.testing.assert_allclose(mean.dice, there.dice, atol=1e-4)
    np.testing.assert_allclose(mean[['hd95', 'asd']], there[['hd95', 'asd']], atol=1e-3)


@pytest.mark.parametrize('dataset', ['busi', 'ddti'])
def test_differences_come_out_again(cases, dataset):
    t = cases[(cases.dataset == dataset) & (cases.label_fraction == 0.1)]
    found = read('compare_stats.csv')
    found = found[found.dataset == dataset].set_index('rival')
    again = (
        difference_table({m: t[t.method == m] for m in NAMES.values()}, 'default', 'dice')
        .set_index('rival')
        .loc[found.index]
    )
    np.testing.assert_allclose(again[['diff', 'lo', 'hi']], found[['diff', 'lo', 'hi']], atol=2e-4)
    assert set(found.index) == set(NAMES.values()) - {'default'}


def test_ablations_come_out_again(parts):
    rows, scores = parts
    for (dataset, part), t in scores.groupby(['dataset', 'part']):
        whole = scores[(scores.dataset == dataset) & (scores.part == 'default')]
        row = rows[(rows.dataset == dataset) & (rows.part == part)]
        assert row.sort_values('seed').dice.tolist() == pytest.approx(
            t.groupby('seed').dice.mean().tolist(), abs=1e-4
        ), (dataset, part)
        for score in ('dice', 'dice_shadow', 'hd95'):
            d = paired_difference(t, whole, score)
            for k in ('diff', 'lo', 'hi'):
                assert row[f'{score}_{k}'].iloc[0] == pytest.approx(d[k], abs=2e-4 if score != 'hd95' else 2e-2), (
                    dataset,
                    part,
                    score,
                    k,
                )


@pytest.mark.parametrize('dataset', ['busi', 'ddti'])
def test_shadows_come_out_again(cases, dataset):
    "Dice in imitated shadow and what the shadow costs, by patient; and the means of `stress.csv`"
    t = cases[(cases.dataset == dataset) & (cases.label_fraction == 0.1)]
    found = read('stress_stats.csv')
    found = found[found.dataset == dataset].set_index('rival')
    for score, tail in (('dice_shadow', ''), ('loss', '_loss')):
        again = (
            difference_table({m: t[t.method == m] for m in NAMES.values()}, 'default', score)
            .set_index('rival')
            .loc[found.index]
        )
        np.testing.assert_allclose(
            again[['diff', 'lo', 'hi']], found[[f'{k}{tail}' for k in ('diff', 'lo', 'hi')]], atol=2e-4
        )
        assert set(found.index) == set(NAMES.values()) - {'default'}
    level = read('stress.csv')
    level = (
        level[(level.dataset == dataset) & (level.coverage == 0.4) & (level.depth_db == 30)]
        .set_index(['method', 'seed'])
        .dice
    )
    np.testing.assert_allclose(t.groupby(['method', 'seed']).dice_shadow.mean(), level.sort_index(), atol=1e-4)


def test_rivals_in_shadow_are_the_means_of_their_cases():
    rows = (
        read('shadowed_rivals.csv')
        .set_index(['dataset', 'method', 'seed'])[['dice', 'hd95', 'dice_shadow', 'loss']]
        .sort_index()
    )
    np.testing.assert_allclose(
        read('shadowed_rivals_cases.csv.gz').groupby(rows.index.names)[list(rows)].mean(), rows, atol=1e-3
    )


def test_each_rival_was_trained_on_another_processor_too(runs):
    key = ['dataset', 'method', 'label_fraction', 'seed']
    both = read('other_processor.csv').merge(runs, on=key, suffixes=('_there', ''))
    assert (
        len(both) == len(runs[~runs.method.isin(['default', 'published'])])
        and (both.image_passes_there == both.image_passes).all()
    )


def test_the_readme_quotes_the_tables(runs):
    "The comparison in the README, number by number"
    stats, shade = (
        read('compare_stats.csv').set_index(['dataset', 'rival']),
        read('stress.csv').groupby(['dataset', 'method', 'coverage', 'depth_db']).dice.mean(),
    )
    few = runs[runs.label_fraction == 0.1].groupby(['dataset', 'method'])[['dice', 'hd95']].agg(['mean', 'std'])
    lines = {
        c[0].strip(): c
        for c in (l.strip('|').split('|') for l in (ROOT / 'README.md').read_text().splitlines() if l.startswith('| '))
        if len(c) == 9
    }
    for name, method in NAMES.items():
        want = []
        for d in ('busi', 'ddti'):
            row = few.loc[d, method]
            want += [f"{row.dice['mean']:.3f} ± {row.dice['std']:.3f}", '', f"{row.hd95['mean']:.1f}"]
            if method != 'default':
                s = stats.loc[d, method]
                want[-2] = f"+{s['diff']:.3f} ({s.lo:.3f} to {s.hi:.3f})"
        for d in ('busi', 'ddti'):
            k = shade[d, method]
            dark = k[0.4, 30.0]
            want.append(f'{dark:.3f} ({dark - k[0.0, 0.0]:.3f})')
        assert [c.replace('**', '').strip() for c in lines[name]] == [name, *want]
