"""How well representations tell degradations apart, in numbers; all from scikit-learn, with fixed seeds.

Every image is there once under every degradation, and images are never split between training and test: what a score
finds is the degradation, not the content.
"""

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightbsr_compat import InputError

SEED = 0
_FOLDS = 5
_NEIGHBOURS = 5
MIN_IMAGES = 4


def idr_scores(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, targets: dict[str, np.ndarray]
) -> dict[str, float]:
    """Scores of one representation.

    Args:
        features: (N, C) one vector per image and degradation.
        labels: (N,) number of the degradation.
        groups: (N,) number of the image.
        targets: name -> (N,) what a linear probe shall read off the features, such as sigma.

    Returns:
        silhouette: -1 to 1, higher is better: how much nearer a vector is to its own degradation's than to the next's.
        davies_bouldin: 0 and up, lower is better.
        knn_accuracy: 0 to 1, of 5 nearest neighbours among other images; chance is one over the number of degradations.
        NAME_error: mean absolute error of ridge regression on other images, in the unit of the target, and
        NAME_error_of_mean: the same for a guess that knows no features.

    Raises:
        InputError: too few images or degradations.
    """
    images, degradations = len(np.unique(groups)), len(np.unique(labels))
    if images < MIN_IMAGES or degradations < 2:
        raise InputError(
            f"there are {images} images under {degradations} degradations, but scores of a representation need at"
            f" least {MIN_IMAGES} images and 2 degradations"
        )
    folds = GroupKFold(min(_FOLDS, images))
    scaled = StandardScaler().fit_transform(features)
    # Training images x degradations; the neighbours must be fewer than one degradation has.
    neighbours = min(_NEIGHBOURS, images - images // folds.get_n_splits() - 1)
    knn = make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours))
    predicted = cross_val_predict(knn, features, labels, groups=groups, cv=folds)
    scores = {
        "silhouette": float(silhouette_score(scaled, labels)),
        "davies_bouldin": float(davies_bouldin_score(scaled, labels)),
        "knn_accuracy": float((predicted == labels).mean()),
    }
    for name, target in targets.items():
        for suffix, model in (("error", Ridge()), ("error_of_mean", DummyRegressor())):
            probe = make_pipeline(StandardScaler(), model)
            predicted = cross_val_predict(probe, features, target, groups=groups, cv=folds)
            scores[f"{name}_{suffix}"] = float(np.abs(predicted - target).mean())
    return scores


def tsne(features: np.ndarray) -> np.ndarray:
    """Two coordinates per vector for a picture: (N, C) -> (N, 2), t-SNE of the standardised features."""
    scaled = StandardScaler().fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    return TSNE(2, perplexity=perplexity, init=init, random_state=SEED).fit_transform(scaled)
