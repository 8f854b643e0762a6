"HD95, ASD and overlap against a count by hand: pixels that are not square, masks at the edges, single pixels, empty masks."

import math
import numpy as np
import pytest
from scipy import ndimage as ndi
from sabr.core import DataError
from sabr.judge.scores import SCORES, case_scores, mask_scores, summarise

SPACINGS = [(1.0, 1.0), (0.308, 0.154), (0.1, 1.7), (2.0, 0.25)]


def surface(mask):
    "Pixels of the mask with a 4-neighbour outside of it or of the image, found one by one."
    h, w = mask.shape
    inside = lambda y, x: 0 <= y < h and 0 <= x < w and mask[y, x]
    return [
        (y, x)
        for y in range(h)
        for x in range(w)
        if mask[y, x] and not all(inside(y + a, x + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def by_hand(pred, truth, spacing):
    "The definitions written out; shares nothing with the code under test."

    def nearest(a, b):
        return [min(math.hypot((y - v) * spacing[0], (x - u) * spacing[1]) for v, u in b) for y, x in a]

    p, t = surface(pred), surface(truth)
    one, other = nearest(p, t), nearest(t, p)

    def percentile(d, q=0.95):
        d = sorted(d)
        k = q * (len(d) - 1)
        i = int(k)
        return d[i] + (d[min(i + 1, len(d) - 1)] - d[i]) * (k - i)

    hits = sum(bool(a and b) for a, b in zip(pred.ravel(), truth.ravel()))
    n, m = int(pred.sum()), int(truth.sum())
    return dict(
        dice=2 * hits / (n + m),
        jaccard=hits / (n + m - hits),
        precision=hits / n,
        recall=hits / m,
        hd95=max(percentile(one), percentile(other)),
        asd=sum(one + other) / len(one + other),
    )


def check(pred, truth, spacing):
    got, want = mask_scores(pred, truth, spacing), by_hand(pred, truth, spacing)
    for k in SCORES:
        assert got[k] == pytest.approx(want[k], rel=1e-5, abs=1e-6), k
    assert got['unit'] == 'mm' and got['miss'] is False


def box(shape, rows, cols):
    m = np.zeros(shape, bool)
    m[slice(*rows), slice(*cols)] = True
    return m


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('seed', range(12))
def test_ragged_masks(seed, spacing):
    "Several pieces, holes, pixels at the edges."
    rng = np.random.default_rng(seed)
    pred, truth = ndi.gaussian_filter(rng.normal(size=(2, *rng.integers(8, 28, 2))), (0, *[rng.uniform(0, 2)] * 2)) > 0
    check(pred, truth, spacing)


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize(
    'pred,truth',
    [
        (((0, 5), (0, 6)), ((0, 9), (0, 4))),  # both in a corner
        (((0, 5), (0, 6)), ((15, 20), (20, 30))),  # in opposite corners
        (((0, 20), (0, 30)), ((6, 12), (5, 20))),  # the whole image
        (((0, 20), (0, 30)), ((0, 20), (0, 30))),
        (((0, 20), (7, 8)), ((0, 20), (25, 26))),  # lines of one pixel, from edge to edge
        (((0, 1), (0, 30)), ((19, 20), (0, 30))),
        (((3, 4), (4, 5)), ((3, 4), (4, 5))),  # single pixels
        (((0, 1), (0, 1)), ((19, 20), (29, 30))),
        (((3, 4), (4, 5)), ((8, 16), (9, 20))),
    ],
)
def test_edges_and_single_pixels(pred, truth, spacing):
    check(box((20, 30), *pred), box((20, 30), *truth), spacing)


def test_spacing_is_rows_first():
    pred, truth = box((20, 30), (4, 5), (4, 5)), box((20, 30), (14, 15), (4, 5))  # ten rows apart
    assert mask_scores(pred, truth, (0.5, 3.0))['hd95'] == pytest.approx(5)
    assert mask_scores(pred.T, truth.T, (0.5, 3.0))['hd95'] == pytest.approx(30)
    assert mask_scores(pred, truth)['hd95'] == 10 and mask_scores(pred, truth)['unit'] == 'px'


@pytest.mark.parametrize('shift', [(0, 0), (0, 70), (90, 0), (90, 70), (37, 41)])
def test_place_in_the_image_changes_nothing(shift):
    "The same masks in a larger image, at its edges or in the middle."
    small = [box((20, 30), (2, 15), (5, 25)), box((20, 30), (0, 12), (9, 30))]
    large = [np.pad(m, ((shift[0], 90 - shift[0]), (shift[1], 70 - shift[1]))) for m in small]
    assert mask_scores(*large, (0.3, 0.15)) == mask_scores(*small, (0.3, 0.15))


@pytest.mark.parametrize(
    'spacing,diagonal', [(None, 50.0), ((0.1, 0.1), 5.0), ((0.4, 0.4), 20.0), ((1.0, 0.75), 30 * math.sqrt(2))]
)
def test_empty_masks(spacing, diagonal):
    nothing, something = np.zeros((30, 40), bool), box((30, 40), (3, 9), (3, 9))
    both = mask_scores(nothing, nothing, spacing)
    assert [both[k] for k in SCORES] == [1, 1, 1, 1, 0, 0] and both['miss'] is False
    for one in (mask_scores(nothing, something, spacing), mask_scores(something, nothing, spacing)):
        assert [one[k] for k in SCORES] == pytest.approx([0, 0, 0, 0, diagonal, diagonal]) and one['miss'] is True
    farthest = mask_scores(box((30, 40), (0, 1), (0, 1)), box((30, 40), (29, 30), (39, 40)), spacing)
    assert farthest['hd95'] < diagonal and not farthest['miss']


def test_background_and_other_classes_do_not_count():
    truth = np.zeros((20, 20), int)
    truth[2:8, 2:8], truth[10:18, 10:18] = 1, 2
    pred = truth.copy()
    pred[pred == 2] = 0
    a, b = case_scores(pred, truth, ['background', 'a', 'b'])
    assert a['dice'] == 1 and a['hd95'] == 0 and not a['miss']
    assert b['dice'] == 0 and b['miss'] and b['hd95'] == pytest.approx(20 * math.sqrt(2))


def test_labels_of_small_integer_types():
    "uint8 labels, as `predict` returns them, give what int64 gives."
    rng = np.random.default_rng(0)
    pred, truth = rng.integers(0, 3, (2, 24, 24))
    names = ['background', 'a', 'b']
    assert case_scores(pred.astype(np.uint8), truth.astype(np.uint8), names) == case_scores(pred, truth, names)


@pytest.mark.parametrize(
    'pred,truth,spacing,message',
    [
        (np.zeros((8, 8), int), np.zeros((8, 9), int), None, 'native size'),
        (np.zeros((1, 8, 8), int), np.zeros((1, 8, 8), int), None, r'\(H,W\)'),
        (np.full((8, 8), 2), np.zeros((8, 8), int), None, 'prediction holds labels from 2 to 2'),
        (np.zeros((8, 8), int), np.full((8, 8), 255), None, 'truth holds labels from 255 to 255'),
        (np.zeros((8, 8), int), np.zeros((8, 8), int), (0.3, 0.3, 1.0), 'spacing'),
        (np.zeros((8, 8), int), np.zeros((8, 8), int), (0.3, -1.0), 'spacing'),
    ],
)
def test_what_cannot_be_compared(pred, truth, spacing, message):
    with pytest.raises(DataError, match=message):
        case_scores(pred, truth, ['background', 'lesion'], spacing)


def test_summary_by_hand():
    "Each case is averaged over its classes first; the deviation is that between cases."
    import pandas as pd

    scores = {('x', 'a'): 0.9, ('x', 'b'): 0.5, ('y', 'a'): 0.8, ('y', 'b'): 0.4, ('z', 'a'): 1.0, ('z', 'b'): 0.0}
    rows = [
        {'case': c, 'class': k, **dict.fromkeys(SCORES, v), 'unit': 'mm', 'miss': v == 0}
        for (c, k), v in scores.items()
    ]
    m = summarise(pd.DataFrame(rows))
    means = [0.7, 0.6, 0.5]
    assert m['mean']['dice'] == pytest.approx(0.6) and m['mean']['dice_sd'] == pytest.approx(np.std(means, ddof=1))
    assert m['classes']['a']['dice'] == pytest.approx(0.9) and m['classes']['b']['n_misses'] == 1
    assert (m['n_cases'], m['n_misses'], m['mean']['n_misses'], m['unit']) == (3, 1, 1, 'mm')
