"No patient and no pixel-identical image crosses a split; labelled subsets are nested; a published split is taken as it is or refused."

import numpy as np
import pandas as pd
import pytest
from sabr.core import ConfigError, DataError, find_data
from sabr.data.split import case_groups, draw_labelled, load_splits, save_splits, split_cases

FRACTIONS = (0.05, 0.1, 0.2, 0.5, 1.0)


def table(seed=0, patients=25, twins=6, blank=0.2, kinds=('benign', 'malignant', 'normal'), path='data/x'):
    "A case table of patients with 1 to 5 images, some without a patient id, and `twins` pairs of identical images."
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        name, kind = ('' if rng.random() < blank else f'p{p}'), kinds[rng.integers(len(kinds))]
        rows += [
            dict(case=f'{p}-{i}', patient=name, category=kind, mask=(f'{path}/{p}-{i}.png',))
            for i in range(rng.integers(1, 6))
        ]
    t = pd.DataFrame(rows).assign(split='', labelled=True, hash=[f'h{i}' for i in range(len(rows))])
    for _ in range(twins):
        i, j = rng.choice(len(t), 2, replace=False)
        t.loc[i, 'hash'] = t.loc[j, 'hash']
    t.attrs.update(dataset='x', path=path)
    return t


def crossings(t):
    "Number of patients and of pictures found in two splits, counted without the code under test."
    seen, n = {}, 0
    for c in t.itertuples():
        for key in [('patient', c.patient)] * (c.patient != '') + [('hash', c.hash)]:
            n += seen.setdefault(key, c.split) != c.split
    return n


@pytest.mark.parametrize('seed', range(60))
def test_nothing_crosses(seed):
    t = split_cases(table(seed), seed=seed)
    assert crossings(t) == 0
    assert set(t['split']) == {'train', 'valid', 'test'}
    assert t.groupby(case_groups(t))['split'].nunique().max() == 1


def test_crossings_would_be_seen():
    "The count above is no formality: a split by image, or by patient alone, does leak on these tables."
    by_image = by_patient = 0
    for seed in range(20):
        t = table(seed)
        by_image += crossings(t.assign(split=np.random.default_rng(seed).choice(['train', 'valid', 'test'], len(t))))
        by_patient += crossings(split_cases(t.drop(columns='hash'), seed=seed).assign(hash=t['hash']))
    assert by_image > 0 and by_patient > 0


def test_chain_of_twins_stays_together():
    t = table(1, twins=0, blank=0)
    first = t.groupby('patient').head(1).index
    for a, b in zip(first[:5], first[1:6]):
        t.loc[t.index == b, 'hash'] = t.loc[a, 'hash']
    for seed in range(20):
        s = split_cases(t, seed=seed)
        assert s[s['patient'].isin(s.loc[first[:6], 'patient'])]['split'].nunique() == 1


def test_shares_and_strata():
    t = table(2, patients=300, twins=5)
    s = split_cases(t, valid=0.15, test=0.3)
    share = s['split'].value_counts(normalize=True)
    assert abs(share['test'] - 0.3) < 0.01 and abs(share['valid'] - 0.15) < 0.01
    kinds = pd.crosstab(s['split'], s['category'], normalize='index')
    assert (kinds - s['category'].value_counts(normalize=True)).abs().max(axis=None) < 0.04


@pytest.mark.parametrize('seed', range(10))
def test_nested(seed):
    t = split_cases(table(seed, patients=60), seed=seed)
    inner = set()
    for f in FRACTIONS:
        s = draw_labelled(t, f, seed)
        train = s[s['split'] == 'train']
        chosen = set(train.query('labelled')['case'])
        assert inner <= chosen and len(chosen) >= max(1, f * len(train) - 1e-6)
        assert train.groupby(case_groups(train))['labelled'].nunique().max() == 1  # whole patients
        assert s.loc[s['split'] != 'train', 'labelled'].all()
        inner = chosen
    assert len(inner) == len(train)
    assert set(draw_labelled(t, 0.2, seed).query("labelled")['case']) != set(
        draw_labelled(t, 0.2, seed + 1).query("labelled")['case']
    )


def test_rows_and_folder_do_not_matter():
    a, b = table(3, path='/one/place'), table(3, path='another').sample(frac=1, random_state=0).reset_index(drop=True)
    a, b = (draw_labelled(split_cases(t), 0.2).set_index('case')[['split', 'labelled']].sort_index() for t in (a, b))
    pd.testing.assert_frame_equal(a, b)


def test_draw_is_fixed_for_good():
    "A published seed must mean the same split in later versions: these lists may not change."
    t = pd.DataFrame(
        dict(case=[f'c{i}' for i in range(12)], patient=[f'p{i // 2}' for i in range(12)], category='')
    ).assign(split='', labelled=True)
    t['mask'] = [('m.png',)] * 12
    s = draw_labelled(split_cases(t, seed=0), 0.5, seed=0)
    assert s.groupby('split')['patient'].unique().map(list).to_dict() == dict(
        test=['p1'], train=['p0', 'p2', 'p3', 'p5'], valid=['p4']
    )
    assert sorted(s.query("split == 'train' and labelled")['patient'].unique()) == ['p2', 'p3']


@pytest.mark.parametrize('patients', [1, 2])
def test_too_few_patients(patients):
    with pytest.raises(DataError, match=f'{patients} patient.*three are needed. Add patients'):
        split_cases(table(0, patients=patients, blank=0, twins=0))


def test_twins_can_make_too_few():
    t = table(0, patients=3, blank=0, twins=0)
    t['hash'] = 'same'
    with pytest.raises(DataError, match='three are needed'):
        split_cases(t)


@pytest.mark.parametrize(
    'shares', [dict(test=0), dict(valid=0), dict(valid=0.5, test=0.5), dict(test=-0.1), dict(test=float('nan'))]
)
def test_shares_that_leave_nothing(shares):
    with pytest.raises(ConfigError, match='leave something to train on'):
        split_cases(table(), **shares)


def test_unlabelled_images_are_for_training_only():
    for seed in range(10):
        t = table(seed, patients=40)
        gone = np.random.default_rng(seed).random(len(t)) < 0.3
        t['mask'] = [() if g else m for g, m in zip(gone, t['mask'])]
        s = draw_labelled(split_cases(t, seed=seed), 0.3, seed)
        assert not s['labelled'][gone].any() and (s['split'][gone] == 'train').all() and crossings(s) == 0


def test_no_masks_at_all():
    t = table()
    t['mask'] = [()] * len(t)
    with pytest.raises(DataError, match='only 0 of .* have a mask for every image'):
        split_cases(t)


def test_given_split_is_kept_and_checked():
    t = split_cases(table(5))
    again = split_cases(t, seed=99, test=0.5)
    pd.testing.assert_series_equal(again['split'], t['split'])
    p = t[t['patient'] != ''].groupby('patient').filter(lambda g: len(g) > 1).iloc[0]
    leak = t.copy()
    leak.loc[leak['case'] == p['case'], 'split'] = 'test' if p['split'] != 'test' else 'train'
    with pytest.raises(DataError, match=f"patient '{p['patient']}' is in .*{p['case']}"):
        split_cases(leak)
    half = t.copy()
    half.loc[0, 'split'] = ''
    with pytest.raises(DataError, match='1 of .* cases have no split: 0-0'):
        split_cases(half)


@pytest.mark.parametrize('role', ['valid', 'test'])
def test_no_mask_in_a_scored_role(role):
    t = split_cases(table(4))
    i = t.index[t['split'] == role][0]
    t.at[i, 'mask'] = ()
    with pytest.raises(DataError, match=f"case {t['case'][i]} is in {role} but has no mask"):
        draw_labelled(t, 0.5)


@pytest.mark.parametrize('fraction', [0, -0.1, 1.01, 10, '0.1', True, float('nan'), None])
def test_fractions_outside(fraction):
    with pytest.raises(ConfigError, match='label_fraction='):
        draw_labelled(split_cases(table()), fraction)


def test_published_split(tmp_path):
    t = draw_labelled(split_cases(table(6)), 0.2, seed=3)
    p = tmp_path / 'splits' / 'x.csv'
    save_splits(t, p)
    back = load_splits(table(6).sample(frac=1, random_state=1), p).sort_index()
    pd.testing.assert_frame_equal(back[['case', 'split', 'labelled']], t[['case', 'split', 'labelled']])
    with pytest.raises(DataError, match='does not have'):
        load_splits(table(6).iloc[1:], p)
    more = pd.concat([table(6), table(6).iloc[:1].assign(case='new')], ignore_index=True)
    with pytest.raises(DataError, match='says nothing about .* new'):
        load_splits(more, p)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.assign(split='tets'), "Did you mean 'test'"),
        (lambda c: c.drop(columns='labelled'), 'no column labelled'),
        (lambda c: pd.concat([c, c.iloc[:1]]), 'twice'),
        (lambda c: c.assign(labelled='yes'), 'Write True or False'),
        (lambda c: c.assign(split=['train', 'valid', 'test'] * (len(c) // 3) + ['test'] * (len(c) % 3)), 'is in'),
    ],
)
def test_edited_split_files(tmp_path, change, message):
    p = tmp_path / 'x.csv'
    save_splits(draw_labelled(split_cases(table(6)), 0.2), p)
    change(pd.read_csv(p, dtype=str)).to_csv(p, index=False)
    with pytest.raises(DataError, match=message):
        load_splits(table(6), p)


def test_split_file_labels_what_has_no_mask(tmp_path):
    p = tmp_path / 'x.csv'
    t = draw_labelled(split_cases(table(6)), 1)
    save_splits(t, p)
    bare = table(6)
    bare.at[0, 'mask'] = ()
    with pytest.raises(DataError, match='0-0 is labelled there but has no mask here'):
        load_splits(bare, p)
    with pytest.raises(DataError, match='none.csv'):
        load_splits(t, tmp_path / 'none.csv')


# --- real data, where present ---


def hashed(name, tmp_path_factory, reader):
    if not (path := find_data(name)):
        pytest.skip(f'{name} is not here')
    from sabr.data.cache import build_cache

    return build_cache(reader(path), 32, tmp_path_factory.mktemp(name), progress=False)[0]


@pytest.fixture(scope='module')
def busi(tmp_path_factory):
    from sabr.data.readers import read_busi

    return hashed('busi', tmp_path_factory, read_busi)


def test_busi_twins_stay_together(busi):
    twins = busi[busi['hash'].duplicated(keep=False)]
    assert {'benign (433)', 'malignant (145)'} <= {c.split('/')[-1] for c in twins['case']}
    by_image = 0
    for seed in range(25):
        assert crossings(split_cases(busi, seed=seed)) == 0
        by_image += crossings(split_cases(busi.drop(columns='hash'), seed=seed).assign(hash=busi['hash']))
    assert by_image > 0  # without the hashes the twins would have been parted


def test_busi_has_room_for_250_test_images(busi):
    s = draw_labelled(split_cases(busi, test=0.33), 0.1)
    assert (s['split'] == 'test').sum() >= 250
    kinds = pd.crosstab(s['split'], s['category'], normalize='index')
    assert (kinds - s['category'].value_counts(normalize=True)).abs().max(axis=None) < 0.02


def test_five_camus_patients(tmp_path_factory):
    from sabr.data.readers import read_camus

    cases = hashed('camus', tmp_path_factory, read_camus)
    if cases['patient'].nunique() != 5:
        pytest.skip('not the copy with five patients')
    s = split_cases(cases)
    assert s.groupby('split')['patient'].nunique().to_dict() == dict(test=1, train=3, valid=1)
