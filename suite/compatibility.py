"""Settings that make no sense together: each rule says where, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from suite.registry import located

if TYPE_CHECKING:
    from suite.experiment import TrialSettings

Problem = tuple[tuple[str, ...], str]
"""The path of the setting to tell it at, and the reason with what to do."""


def check(settings: TrialSettings) -> None:
    """See that the settings make sense together.

    Raises:
        PydanticCustomError: they do not; the first rule that is broken.
    """
    for path, reason in _problems(settings):
        raise located(path, reason)


def _problems(settings: TrialSettings) -> Iterator[Problem]:
    for rule in _RULES:
        problem = rule(settings)
        if problem is not None:
            yield problem


def _mup_needs_dot(settings: TrialSettings) -> Problem | None:
    if settings.encoder.parametrization != "mup" or settings.loss.similarity != "cosine":
        return None
    return ("encoder", "parametrization"), (
        "parametrization mup with cosine similarity would shrink the embeddings that cosine rescales: "
        "use standard, or similarity: dot"
    )


def _cosine_needs_two_dimensions(settings: TrialSettings) -> Problem | None:
    if settings.loss.similarity != "cosine" or settings.encoder.embedding_dim > 1:
        return None
    return ("encoder", "embedding_dim"), (
        "the cosine of two numbers is 1 or -1, so its gradient is zero and no tower would move: write at least 2, or "
        "use similarity: dot"
    )


def _allen_zhu_needs_relu(settings: TrialSettings) -> Problem | None:
    encoder = settings.encoder
    if encoder.parametrization != "allen-zhu" or encoder.activation == "relu":
        return None
    return ("encoder", "activation"), (
        f"{encoder.activation} with parametrization allen-zhu would see inputs of size 1/sqrt(width), where it is "
        "linear: use relu, or parametrization standard, ntk or mup"
    )


def _something_is_trained(settings: TrialSettings) -> Problem | None:
    if settings.encoder.train_hidden or settings.encoder.train_ends:
        return None
    return ("encoder", "train_hidden"), "false leaves nothing to train; add train_ends: true, or leave it out"


def _one_draw_has_one_shape(settings: TrialSettings) -> Problem | None:
    towers = settings.encoder.towers()
    if not settings.coupling.one_draw or towers["query"] == towers["key"]:
        return None
    return ("encoder", "key"), (
        f"coupling {settings.coupling.name} makes the key tower a copy of the query tower, so it cannot have another "
        "width or depth: leave encoder.key out, or use coupling joint, alternating or frozen"
    )


def _supcon_needs_labels(settings: TrialSettings) -> Problem | None:
    if "labels" not in settings.loss.needs or settings.data.has_labels:
        return None
    return ("loss",), (
        f"loss {settings.loss.name} needs labels, and data source {settings.data.source} has none: use digits, or npz "
        "or idx with labels"
    )


def _negatives_are_other_samples(settings: TrialSettings) -> Problem | None:
    negatives, samples = settings.loss.num_negatives, settings.data.samples
    if negatives is None or negatives < samples:
        return None
    return ("loss", "negatives"), (
        f"{negatives} negatives of each sample, but there are {samples - 1} other samples: write at most "
        f"{samples - 1}, or leave it out for all"
    )


def _batches_draw_negatives(settings: TrialSettings) -> Problem | None:
    if settings.optimizer.batch is None or "negatives" not in settings.loss.needs:
        return None
    return ("loss", "negatives"), (
        "with batches the negatives are the rest of the batch, so a fixed draw of them makes no sense: leave "
        "negatives out, or use the full batch"
    )


def _batch_fits(settings: TrialSettings) -> Problem | None:
    batch, samples = settings.optimizer.batch, settings.data.samples
    if batch is None or batch <= samples:
        return None
    return ("optimizer", "batch_size"), f"a batch of {batch} from {samples} samples: write at most {samples}"


def _sharpness_is_for_descent(settings: TrialSettings) -> Problem | None:
    if settings.optimizer.is_plain or settings.optimizer.learning_rate.rule != "sharpness":
        return None
    momentum = " with momentum" if settings.optimizer.name == "gd" else ""
    return ("optimizer", "learning_rate"), (
        "rule sharpness gives the largest stable rate of full-batch gradient descent, not of "
        f"{settings.optimizer.name}{momentum}: use rule width or constant"
    )


def _sharpness_is_along_the_gradient(settings: TrialSettings) -> Problem | None:
    if settings.coupling.along_gradient or settings.optimizer.learning_rate.rule != "sharpness":
        return None
    return ("optimizer", "learning_rate"), (
        "rule sharpness gives the largest stable rate of steps along the gradient of both towers, and those of "
        f"coupling {settings.coupling.name} are not: use rule width or constant, or coupling joint or shared"
    )


_RULES: tuple[Callable[[TrialSettings], Problem | None], ...] = (
    _mup_needs_dot,
    _cosine_needs_two_dimensions,
    _allen_zhu_needs_relu,
    _something_is_trained,
    _one_draw_has_one_shape,
    _supcon_needs_labels,
    _negatives_are_other_samples,
    _batches_draw_negatives,
    _batch_fits,
    _sharpness_is_for_descent,
    _sharpness_is_along_the_gradient,
)


def parametrizations_coincide(settings: TrialSettings) -> bool:
    """Whether all parametrizations give the same system up to the learning rate (cosine) or the scale of logits (dot).

    True while the first and the last layer stay at their draw, without biases, under an optimizer whose steps scale
    with the gradient, and a loss that trains no scalars (beside the towers, these move at a rate of their own) and
    takes dot products over a temperature (without one, nothing else sets the scale of the logits). Towers of unequal
    widths share one rate under mup alone.
    """
    encoder, loss = settings.encoder, settings.loss
    same_towers = not encoder.train_ends and not encoder.biases and settings.optimizer.is_linear
    same_loss = not loss.parameters() and (loss.similarity == "cosine" or hasattr(loss, "temperature"))
    return same_towers and same_loss and (encoder.parametrization != "mup" or _one_width(settings))


def _one_width(settings: TrialSettings) -> bool:
    return len({tower.width for tower in settings.encoder.towers().values()}) == 1


COINCIDING = (
    "encoder.parametrization: with frozen ends these cells are the same system, up to the learning rate (cosine) or "
    "the scale of the logits (dot), so comparing them shows nothing: set encoder.train_ends: true, or keep one"
)
